"""The way of ``debride explain``: each image explained, drawn and written, in a new folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from debride import __version__, screens
from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.evidence.pictures import picture
from debride.evidence.state import frozen
from debride.explaining import check
from debride.explaining.asking import Ask, asks_of, class_named
from debride.explaining.images import Item, open_all
from debride.explaining.maps import Decision, Map, decide, explain_image, shown_cut
from debride.explaining.raw import SUFFIX, check_kind, encoded
from debride.files import staged_folder
from debride.models.outputs import task_of
from debride.opening import Network
from debride.progress import track
from debride.report.overlay import Panel, as_png, figure

if TYPE_CHECKING:
    from debride.settings import ExplainSettings

SHOWN = 20
"""Images listed on the screen."""


def explain(settings: ExplainSettings) -> bool:
    """Write a folder of heatmaps; return whether relevance is conserved, where that is asked.

    Raises
    ------
    DebrideError
        Where network, images, methods and options are not there or do not go together.
    """
    out = settings.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DebrideError(f"'{out}' is not empty: give --out a new folder")
    check_kind(settings.raw)
    network, classes, items, multilabel = open_all(settings)
    screens.show_preparation(network.preprocessing, network.how)
    asks = asks_of(
        settings.method, settings.rules, settings.option, network.preprocessing,
        memory=settings.memory, seed=settings.seed,
    )  # fmt: skip
    target, against = _classes(settings, classes, asks)
    passes = check.accounted(asks) if settings.check else []
    if settings.check and not passes:
        raise DebrideError("--check accounts for relevance passes: add lrp or dlb to --method")
    outputs = network.spec.outputs if network.spec is not None else len(classes)
    task = task_of(outputs, len(classes), multilabel)
    entries: list[dict[str, Any]] = []
    accounts: list[check.Account] = []
    with staged_folder(out) as stage, frozen(network.model):
        for item in track(items, "explaining"):
            image = item.read(network)[None].to(network.device)
            decision = decide(network, image, task, target, against)
            maps = explain_image(network, image, asks, decision, strict=settings.strict)
            pixels = _pixels(image[0].cpu(), network.preprocessing)
            entries.append(_write(stage, item, pixels, decision, maps, classes, settings))
        if passes:
            cases = [
                (image, decide(network, image, task, target, against))
                for image in (
                    item.read(network)[None].to(network.device)
                    for item in items[: settings.check_images]
                )
            ]
            for ask, rules in track(passes, "checking"):
                accounts.append(check.account(network, ask, rules, cases))
            _json(stage / "conservation.json", [each.entry() for each in accounts])
            (stage / "conservation.csv").write_text(check.as_csv(accounts), encoding="utf-8")
        _json(stage / "index.json", _index(network, classes, settings.seed, entries))
    _say(entries, out)
    for each in accounts:
        check.show(each)
    return all(each.conserves for each in accounts)


def _classes(
    settings: ExplainSettings, classes: Sequence[str], asks: Sequence[Ask]
) -> tuple[int | None, int | None]:
    """Find the classes of --target and --against."""
    target, against = (
        None if given is None else class_named(given, classes, flag)
        for given, flag in ((settings.target, "--target"), (settings.against, "--against"))
    )
    if against is None:
        return target, None
    if target == against:
        raise DebrideError(f"--target and --against are both '{classes[against]}': give two")
    if len(classes) < 2:
        raise DebrideError("--against needs a second class: this network has one")
    if any(ask.method == "dlb_contrastive" for ask in asks):
        raise DebrideError(
            "dlb_contrastive sets the target against all other classes by itself: leave out "
            "--against, or this method"
        )
    return target, against


def _write(
    stage: Path,
    item: Item,
    image: Tensor,
    decision: Decision,
    maps: Sequence[Map],
    classes: Sequence[str],
    settings: ExplainSettings,
) -> dict[str, Any]:
    """Write the picture and the values of one image; return its entry in the index."""
    flat = [each.relevance.sum(dim=0) for each in maps]
    cut = shown_cut(flat)
    panels = [
        Panel(each.ask.title, each.ask.details, (one if cut is None else one[cut]).numpy())
        for each, one in zip(maps, flat, strict=True)
    ]
    seen = picture(image if cut is None else image[:, cut])
    heading, lines = _words(decision, maps[0].score, classes, item.labels)
    if cut is not None:
        lines.append(f"Slice {cut + 1} of {image.shape[1]}, where the maps are largest")
    ends = ("against", "for")
    if decision.against is not None:
        ends = (classes[decision.against], classes[decision.explained])
    drawn = figure(seen, panels, heading=heading, lines=lines, ends=ends)
    (stage / f"{item.stem}.png").write_bytes(as_png(drawn))
    raws: list[str | None] = [None] * len(maps)
    if settings.raw != "none":
        for place, each in enumerate(maps):
            name = f"{item.stem}.{each.ask.label}{SUFFIX[settings.raw]}"
            (stage / name).write_bytes(encoded(each.relevance, settings.raw))
            raws[place] = name
    return {
        "stem": item.stem,
        "figure": f"{item.stem}.png",
        "labels": None if item.labels is None else list(item.labels),
        "predicted": classes[decision.predicted],
        "probabilities": dict(zip(classes, decision.probabilities, strict=True)),
        "explained": classes[decision.explained],
        "against": None if decision.against is None else classes[decision.against],
        "slice": cut,
        "maps": [each.entry(raw) for each, raw in zip(maps, raws, strict=True)],
    }


def _pixels(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo mean and std of a prepared image (C, *spatial), so that colours are true."""
    sides = [1] * (image.ndim - 1)
    mean, std = (torch.tensor(each).view(-1, *sides) for each in
                 (preprocessing.mean, preprocessing.std))  # fmt: skip
    return image * std + mean


def _words(
    decision: Decision, score: float, classes: Sequence[str], labels: Sequence[str] | None
) -> tuple[str, list[str]]:
    """Say what is explained, and what the network and the labels say."""
    name, odds = classes[decision.explained], decision.probabilities
    found = f"probability {_percent(odds[decision.explained])}"
    if decision.against is None:
        heading = f"Evidence for {name} (logit {score:.3g}, {found})"
    else:
        other = f"{classes[decision.against]} ({_percent(odds[decision.against])})"
        heading = f"Evidence for {name} ({_percent(odds[decision.explained])}) rather than {other}"
        heading += f", difference of logits {score:.3g}"
    predicted = decision.predicted
    said = f"Predicted {classes[predicted]}"
    if predicted != decision.explained:
        said += f" (probability {_percent(odds[predicted])})"
    if labels is not None:
        said += f"; labelled {' and '.join(labels) or 'with nothing'}"
    return heading, [said]


def _percent(share: float) -> str:
    """Write a probability so that only certainty looks like certainty."""
    if 0.005 <= share <= 0.995 or share in (0, 1):
        return f"{share:.2f}"
    return f"{share:.1e}" if share < 0.5 else f"{min(share, 0.9999):.4f}"


def _index(
    network: Network, classes: Sequence[str], seed: int, entries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "debride": __version__,
        "network": network.spec.source if network.spec else type(network.model).__name__,
        "preprocessing": network.preprocessing.model_dump(mode="json"),
        "classes": list(classes),
        "seed": seed,
        "images": list(entries),
    }


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _say(entries: Sequence[Mapping[str, Any]], out: Path) -> None:
    """List what was found, and where it is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    labelled = any(entry["labels"] is not None for entry in entries)
    for name in ("picture", "predicted", "probability", *(["labelled"] if labelled else [])):
        table.add_column(name, justify="right" if name == "probability" else "left")
    table.add_column("explained")
    for entry in entries[:SHOWN]:
        odds = entry["probabilities"][entry["predicted"]]
        labels = [", ".join(entry["labels"] or ())] if labelled else []
        other = f" rather than {entry['against']}" if entry["against"] else ""
        cells = (entry["figure"], entry["predicted"], _percent(odds), *labels)
        table.add_row(*map(escape, (*cells, entry["explained"] + other)))
    if len(entries) > SHOWN:
        table.add_row(f"and {len(entries) - SHOWN} more")
    screens.show(table)
    without: dict[str, dict[str, None]] = {}
    for entry in entries:
        for each in entry["maps"]:
            for name, places in each["without_rule"].items():
                without.setdefault(name, {}).update(dict.fromkeys(places))
    for name, places in without.items():
        where = ", ".join(f"'{place}'" for place in list(places)[:3])
        screens.warn(f"no relevance rule for {name}{f' (in {where})' if where else ''}: its "
                     "gradient is used; --check says what is missing")  # fmt: skip
    count = screens.plural(len(entries), "picture")
    screens.say("heatmaps", f"{count} in {out}; scores and shares in {out / 'index.json'}")
