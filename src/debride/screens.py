"""What the commands print: a few aligned lines and tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from debride.checks import Check
    from debride.data.images import ImageSource
    from debride.data.preprocessing import Preprocessing
    from debride.evidence.evidence import Evidence
    from debride.evidence.verdict import Verdict
    from debride.opening import Job, Network
    from debride.planning.search import Curve, StepRecord

_OUTCOMES = {"pass": "[green]pass[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}
LISTED = 20
"""Names of unreadable images that are shown, at most."""
NAMES = {"train": "training", "val": "validation", "test": "test"}


def show(renderable: RenderableType) -> None:
    """Print on standard output; above the progress bar, if one is shown."""
    console = Console(highlight=False)
    if not (console.is_terminal and isinstance(sys.stdout, FileProxy)):
        console.print(renderable)
        return
    # a console of its own would write into the bar: hand the lines to the bar's
    with console.capture() as captured:
        console.print(renderable)
    sys.stdout.write(captured.get())


def say(label: str, text: str) -> None:
    """Print one fact behind its label, wrapped under itself."""
    line = Table.grid(padding=(0, 2))
    line.add_column(width=9, style="bold")
    line.add_column()
    line.add_row(label, escape(text))
    show(line)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"[yellow]warning:[/yellow] {escape(text)}"
    )


def show_job(job: Job) -> None:
    """Say what images, network and preparation a command works with."""
    show_source(job.source)
    show_network(job.network)
    show_preparation(job.network.preprocessing, job.network.how)


def show_network(network: Network) -> None:
    """Say which network it is, how large, and where its weights come from."""
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    name = network.spec.source if network.spec is not None else type(network.model).__name__
    known = f"{amount(parameters)} parameters, {network.weights}, on {network.device}"
    say("network", f"{name}, {known}")


def show_source(source: ImageSource) -> None:
    """Say what the images are."""
    counts = [
        f"{len(source.splits[split])} {NAMES[split]}"
        for split in ("train", "val", "test")
        if source.splits.get(split)
    ]
    pixels = "×".join(str(n) for n in source.spatial)
    kind = "grey" if source.channels == 1 else "colour"
    say("images", f"{source.name}: {', '.join(counts)}; {pixels} {kind}")
    shown = ", ".join(f"{name} {count}" for name, count in source.counts("train").items())
    say("classes", f"{shown} (training images)")
    for note in source.notes:
        say("", note)
    if source.skipped:
        # the user's own terminal may see names; reports get the count
        say("", f"{plural(len(source.skipped), 'unreadable image')} left out:")
        for line in source.skipped[:LISTED]:
            say("", line)
        if len(source.skipped) > LISTED:
            say("", f"and {len(source.skipped) - LISTED} more")


def show_preparation(preprocessing: Preprocessing, how: str) -> None:
    """Say what is done to an image before the network sees it."""
    parts = []
    if preprocessing.resize is not None:
        parts.append(f"shorter side to {preprocessing.resize}")
    if preprocessing.crop is not None:
        parts.append(f"centre {preprocessing.crop} cut out")
    parts.append("×".join(str(n) for n in preprocessing.spatial))
    parts.append(plural(preprocessing.channels, "channel"))
    mean = ", ".join(f"{value:.3f}" for value in preprocessing.mean)
    std = ", ".join(f"{value:.3f}" for value in preprocessing.std)
    say("prepared", f"{', '.join(parts)}; mean {mean}; std {std} ({how})")


def show_check(check: Check, images: int) -> None:
    """Say how the network does on the validation images before any work."""
    auc = check.measured["roc_auc"]
    shown = "" if auc is None else f", ROC AUC {auc:.3f}"
    say(
        "original",
        f"balanced accuracy {check.measured['balanced_accuracy']:.3f}, "
        f"accuracy {check.measured['accuracy']:.3f}{shown} on {images} validation images",
    )


def show_evidence(
    evidence: Evidence,
    *,
    validation: Mapping[str, float] | None = None,
    metric: str = "balanced accuracy",
    names: Sequence[str] = ("original", "pruned"),
) -> None:
    """Print the table of before and after.

    Parameters
    ----------
    evidence
        What was measured.
    validation
        Validation result under "original" and "model", if known.
    metric
        What the validation result is.
    names
        Headings of the two columns.
    """
    from debride.evidence.verdict import original_guesses

    both = evidence.performance["original"] is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in names if both else names[1:]:
        table.add_column(name, justify="right")
    if both:
        table.add_column("", justify="right")

    def row(label: str, before: Any, after: Any, unit: Any, change: Any) -> None:
        if after is None:
            return
        cells = [unit(after)]
        if both:
            known = before is not None
            cells = [
                unit(before) if known else "",
                unit(after),
                change(before, after) if known else "",
            ]
        table.add_row(label, *cells)

    costs, speed = evidence.cost, evidence.speed
    for key, label in (("macs", "MACs per image"), ("params", "parameters"), ("bytes", "size")):
        unit = size if key == "bytes" else amount
        before = costs["original"]
        row(label, before and before[key], costs["model"][key], unit, _kept)  # type: ignore[literal-required]
    for entry in speed["batches"] if speed is not None else ():
        row(
            f"latency, batch {entry['batch']}",
            entry["original"] and entry["original"]["median"],
            entry["model"]["median"],
            lambda ms: f"{ms:.2f} ms",
            lambda before, after: f"{before / after:.2f}× as fast",
        )
    if validation is not None:
        label = f"validation {metric}"
        row(label, validation.get("original"), validation["model"], _score, _points)
    split = NAMES[evidence.split]
    for key in ("balanced_accuracy", "accuracy", "roc_auc"):
        label = {"roc_auc": "ROC AUC"}.get(key, key.replace("_", " "))
        first, second = evidence.performance["original"], evidence.performance["model"]
        row(f"{split} {label}", first and first[key], second[key], _score, _points)  # type: ignore[literal-required]
    show(table)
    if original_guesses(evidence):
        warn(
            f"the original may be no better than chance on the {split} images: that little was "
            "lost says little"
        )
    if evidence.explanations is not None:
        likeness = evidence.explanations["spearman"]
        say(
            "heatmaps",
            f"rank correlation before and after {likeness['mean']:.2f} (mean), "
            f"{likeness['q10']:.2f} (lowest tenth), on {evidence.explanations['images']} "
            f"{split} images" + _beyond(evidence),
        )
    if evidence.verdict is not None:
        show_verdict(evidence.verdict)


def _beyond(evidence: Evidence) -> str:
    """Say what share of the heatmaps moved beyond the last yardstick, method by method."""
    from debride.relevance import method_title

    said = [
        f"{method_title(method)} {share:.0%}"
        for method, found in (evidence.reasons or {}).items()
        if (share := found["yardsticks"][-1]["beyond"]["spearman"]) is not None
    ]
    return f"; moved beyond the yardstick: {', '.join(said)}" if said else ""


def show_verdict(verdict: Verdict) -> None:
    """Print what the verdict rests on, check by check."""
    from debride.evidence.verdict import more_decimals

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("verdict")
    for heading in ("harm", "95 % interval", "warns, fails above"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for check in verdict["checks"]:
        unit = check["unit"]
        interval = ""
        if check["low"] is not None and check["high"] is not None:
            interval = f"{_figure(check['low'], unit)} to {_figure(check['high'], unit)}"
        # where nothing was lost, nothing came off worst
        of = f": {check['of']}" if check["of"] and check["value"] > 0 else ""
        table.add_row(
            escape(check["title"] + of),
            _figure(check["value"], unit, more_decimals(check))
            + (" points" if unit == "points" else ""),
            interval,
            f"{_figure(check['warn'], unit)}, {_figure(check['fail'], unit)}",
            _OUTCOMES[check["outcome"]],
        )
    table.add_section()
    table.add_row("all of it", "", "", "", _OUTCOMES[verdict["outcome"]])
    show(table)


def _figure(value: float, unit: str, more: int = 0) -> str:
    """Write the figure of a check, with `more` decimals than usual.

    Examples
    --------
    >>> _figure(-0.0001, "points"), _figure(0.25, "percent"), _figure(0.3, "number", 1)
    ('0.0', '25.0%', '0.300')
    """
    # z: what rounds to nothing has no sign
    if unit == "number":
        return f"{value:z.{2 + more}f}"
    return f"{100 * value:z.{1 + more}f}" + ("%" if unit == "percent" else "")


def show_step(record: StepRecord) -> None:
    """Say what a cut left, and what recovery brought back."""
    if record.step == 0:
        return
    repaired = record.after_recovery != record.before_recovery
    say(
        f"step {record.step}",
        f"MACs {record.macs_kept:.1%}, parameters {record.params_kept:.1%}; "
        f"validation {record.before_recovery:.3f} cut"
        + (f", {record.after_recovery:.3f} recovered" if repaired else "")
        + (f"; {_demanded(record)}" if record.drop_bound is not None else ""),
    )


def _demanded(record: StepRecord) -> str:
    held = "kept" if record.good else "broken"
    bound = record.drop_bound or 0.0
    moved = f"down by at most {bound:.4f}" if bound >= 0 else f"up by at least {-bound:.4f}"
    return f"{moved}, drift {record.drift:.3f}: floor {held}"


def show_curve(curve: Curve) -> None:
    """Say which network was chosen among those visited, and what the search took."""
    chosen = curve.points[curve.chosen]
    say(
        "chosen",
        f"step {chosen.step} of {plural(len(curve.points) - 1, 'network')} visited: "
        f"{chosen.macs_kept:.1%} of the MACs; {_demanded(chosen)}",
    )
    one, attributions = (curve.seconds[name] for name in ("evaluation", "attribution"))
    say(
        "search",
        f"{curve.evaluations:.0f} × one evaluation of the validation images ({one:.1f} s of "
        f"computing), and {duration(attributions)} of attributions",
    )


def plural(count: int, noun: str) -> str:
    """Say a count with its noun.

    Examples
    --------
    >>> plural(1, "image"), plural(2, "image")
    ('1 image', '2 images')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def amount(count: float) -> str:
    """Write a large count shortly.

    Examples
    --------
    >>> amount(1_814_073_344), amount(11_689_512), amount(950)
    ('1.81 G', '11.7 M', '950')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def size(count: float) -> str:
    """Write bytes shortly.

    Examples
    --------
    >>> size(44_700_000), size(5_460)
    ('44.7 MB', '5.46 kB')
    """
    return f"{amount(count)}B" if count >= 1000 else f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Write a time for people.

    Examples
    --------
    >>> duration(4.2), duration(200), duration(5000)
    ('4 s', '3 min', '1.4 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 / 1.5 else f"{seconds / 3600:.1f} h"


def _score(value: float) -> str:
    return f"{value:.3f}"


def _points(before: float, after: float) -> str:
    return f"{100 * (after - before):+.1f} points"


def _kept(before: float, after: float) -> str:
    return f"{after / before:.1%} kept"
