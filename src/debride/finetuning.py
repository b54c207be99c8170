"""Fine-tuning as the commands ask for it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from debride import screens
from debride.learning import EpochRecord
from debride.opening import Job
from debride.planning.plan import Plan
from debride.recovery.finetune import FineTuned, FineTuning, finetune
from debride.validation import Validation

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from debride.settings.finetuning import FinetuneSettings


def tuning_of(settings: FinetuneSettings) -> FineTuning | None:
    """Return what the settings ask for, None where they ask for no fine-tuning."""
    if settings.finetune is None and settings.finetune_minutes is None:
        return None
    return FineTuning(
        epochs=settings.finetune,
        minutes=settings.finetune_minutes,
        rate=settings.finetune_lr,
        temperature=settings.finetune_temperature,
        labels=settings.finetune_labels,
        features=settings.finetune_features,
        relevance=settings.finetune_relevance,
    )


def training_images(job: Job) -> DataLoader[Any]:
    """Give the images to learn from: shuffled and augmented, as in ``debride train``."""
    return job.batches("train", shuffle=True, augment=True)


def tell(metric: str) -> Callable[[EpochRecord], None]:
    """Return what prints an epoch."""

    def say(record: EpochRecord) -> None:
        screens.say(
            f"epoch {record.epoch}",
            f"loss {record.loss:.3f}, validation {metric} {record.metric:.3f} "
            f"({screens.duration(record.seconds)})",
        )

    return say


def tune(
    settings: FinetuneSettings,
    job: Job,
    model: nn.Module,
    plan: Plan,
    *,
    metric: str,
    recorded: Mapping[str, Any],
) -> FineTuned | None:
    """Fine-tune a network that a plan or a finished search gave, in place, if that is asked for.

    Parameters
    ----------
    metric
        What validation is measured by, in words.
    recorded
        Settings that must be the same where the work goes on.
    """
    tuning = tuning_of(settings)
    if tuning is None:
        return None
    original, device = job.network.model, job.network.device
    judge = Validation(original, job.batches("val"), job.task, device)
    plan_hash = hashlib.sha256(plan.to_json().encode()).hexdigest()[:12]
    return finetune(
        model,
        original,
        training_images(job),
        judge.measured,
        tuning,
        task=job.task,
        groups=plan.groups,
        seed=settings.seed,
        device=device,
        folder=getattr(settings, "out", None),
        recorded={**recorded, "images": job.source.fingerprint(), "plan": plan_hash},
        on_epoch=tell(metric),
    )


def told(tuned: FineTuned | None, metric: str) -> dict[str, Any]:
    """Say what fine-tuning brought, and return its entry of ``run.json``."""
    if tuned is None:
        return {}
    came = (
        f"epoch {tuned.best_epoch} of {len(tuned.history)}, validation {metric} "
        f"{tuned.before:.3f} → {tuned.after:.3f}"
        if tuned.best_epoch
        else f"no epoch was better, {metric} {tuned.before:.3f}: the network stays as it was"
    )
    if not tuned.kept:
        came = "the result would break the floor of the search: the network stays as it was"
    screens.say("finetuned", came)
    return {"finetuning": dataclasses.asdict(tuned)}
