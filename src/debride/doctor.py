"""The work behind ``debride doctor``: one batch through everything, before long work."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from debride import screens
from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.inspecting import show_survey
from debride.models.outputs import logits
from debride.models.state import undisturbed
from debride.opening import RECALIBRATION, Job, open_job
from debride.planning.costs import macs_by_module
from debride.planning.survey import survey
from debride.relevance import Relevance, attribute
from debride.settings import DoctorSettings

SHOWN = 10
"""Groups listed, the most expensive first."""
REFERENCE = 20
"""Reference images per class that ``debride prune`` takes by default."""


def run(settings: DoctorSettings) -> None:
    """Try explaining, cutting and timing on one batch, and say what came of it."""
    job = open_job(settings)
    screens.show_job(job)
    model, device = job.network.model, job.network.device
    images, _ = unpack(next(iter(job.reference(job.choose(REFERENCE)))))
    images = images.to(device)
    macs = macs_by_module(model, images)
    screens.say("costs", f"{screens.amount(sum(macs.values()))} MACs per image")
    forward = _forward_seconds(model, images)
    explaining = _explain(model, images, settings.rules)
    try:
        found = survey(model, images)
    except DebrideError as error:
        screens.say("cut", f"not possible: {error}")
    else:
        show_survey(found, most=SHOWN)
        reasons = Counter(left.reason for left in found.left_alone)
        for reason, count in reasons.most_common():
            screens.say("kept", f"{screens.plural(count, 'group')} left alone: {reason}")
    _show_needs(job, settings.steps, forward, explaining)


def _explain(model: nn.Module, images: Tensor, rules: str) -> float:
    """Say what the relevance pass found; return its seconds per image."""
    found: list[Relevance] = []
    seconds = _seconds(lambda: found.append(attribute(model, images, rules=rules)))
    relevance = found[-1]
    total = float(relevance.output.sum())
    if total == 0:
        said = "all outputs are 0, so there is nothing to share out"
    else:
        shares = [f"{100 * v / total:.0f} % {name}" for name, v in relevance.shares.items() if v]
        missing = abs(relevance.delta / total)
        said = f"{', '.join(shares)}; unaccounted for {missing:.1e} of the explained outputs"
    screens.say("explain", f"yes, with the rules '{rules}': {said}")
    for name, places in relevance.unknown.items():
        shown = ", ".join(f"'{place}'" for place in places[:3])
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        screens.say("", f"no rule for {name} (in {shown}{more}): its gradient is used")
    return seconds / len(images)


def _show_needs(job: Job, steps: int, forward: float, explaining: float) -> None:
    """Say what time and memory ``debride prune`` takes, from what one batch took."""
    count = {split: len(records) for split, records in job.source.splits.items()}
    reference = min(REFERENCE * len(job.source.classes), count["train"])
    recalibration = min(RECALIBRATION, count["train"])
    # each step: scores, recalibration, validation just cut and recovered; the network shrinks
    # on the way to a half, so its cost is three quarters on average
    step = explaining * reference + forward * (recalibration + 2 * count["val"])
    whole = 0.75 * steps * step + forward * (2 * count["val"] + 2 * count[job.final_split])
    screens.say(
        "time",
        f"about {screens.duration(whole)} to prune in {steps} steps, plus reading the images; "
        f"{1000 * forward:.1f} ms an image forward, {1000 * explaining:.1f} ms explained",
    )
    peak = _peak()
    if peak is not None:
        screens.say("memory", f"{peak / 1e9:.1f} GB at most, with one batch explained")


def _forward_seconds(model: nn.Module, images: Tensor) -> float:
    with undisturbed(model), torch.no_grad():
        model.eval()
        logits(model(images[:1]))
        return _seconds(lambda: model(images)) / len(images)


def _seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak() -> float | None:
    """Give the most memory this process held, in bytes; on a GPU, what was held there."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
