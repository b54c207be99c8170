"""Measure a network, and the original beside it, on one split: the whole of the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.evidence.chosen import Candidate, Reservoir
from debride.evidence.evidence import (
    Cost,
    CostPair,
    Evidence,
    Explanations,
    PerformancePair,
    Sample,
    Task,
)
from debride.evidence.explanations import (
    Explainer,
    heatmaps,
    lrp_explainer,
    spearman,
    summarise,
    top_overlap,
)
from debride.evidence.pictures import picture, shown_slice
from debride.evidence.speed import measure_speed
from debride.evidence.state import device_of, frozen, placed
from debride.evidence.task import Array, Labels, compare_decisions, decide, performance
from debride.models.outputs import logits, probabilities, task_of
from debride.planning.costs import measure
from debride.progress import track

SHOWN = 12
"""Images with heatmaps in the report."""
SHOWN_CHANGED = 4
"""Of these, at most so many that the two networks decide differently."""


def evaluate(
    model: nn.Module,
    data: Iterable[Any],
    *,
    original: nn.Module | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    split: str = "test",
    explain: int = 32,
    explainer: Explainer | None = None,
    speed: bool = True,
    rules: str = "epsilon",
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Evidence:
    """Measure what a network does on a split, and what changed against the original.

    Parameters
    ----------
    model
        The (pruned) network; handed back as it was.
    data
        Batches of images (B, C, *spatial) and labels, as tuples or dicts. One pass is made.
        Labels are (B,) class indices, or (B, K) of 0 and 1 for multi-label tasks.
    original
        The network before pruning, to compare with; handed back as it was.
    task
        "multiclass", "binary" (one logit) or "multilabel"; by default read off the outputs
        and labels.
    classes
        Names in the order of the outputs; by default their numbers.
    split
        Name of the split that `data` is, for the reader.
    explain
        Images whose heatmaps are compared, drawn evenly from the classes; 0 for none.
    explainer
        What makes the heatmaps; by default LRP with `rules`.
    speed
        Whether to time both networks, a few seconds for each batch size.
    rules
        LRP rule set of the heatmaps.
    seed
        Of the choice of images.
    device
        Where to measure; by default where the model is.

    Returns
    -------
    Evidence
        Performance, cost, speed, explanations, and samples for the report.

    Raises
    ------
    DebrideError
        When there are no images or labels, labels do not fit the outputs, or outputs are
        not finite.
    """
    place = device_of(model) if device is None else torch.device(device)
    model = placed(model, place)
    original = None if original is None else placed(original, place)
    networks = [model] if original is None else [original, model]
    with frozen(*networks):
        seen = _watch(networks, data, task, classes, split, explain, seed, place)
        decisions, explanations = None, None
        samples: tuple[Sample, ...] = ()
        if original is not None:
            decisions, _ = compare_decisions(
                seen.probabilities[0], seen.probabilities[1], seen.labels, seen.task
            )
        if explain > 0:
            samples, explanations = _explain(
                networks, seen, explain, explainer or lrp_explainer(rules), place
            )
            if explanations is not None and explainer is None:
                explanations = {**explanations, "method": "lrp", "rules": rules}
        performances = [
            performance(p, seen.labels, seen.task, seen.classes, split) for p in seen.probabilities
        ]
        example = seen.example.to(place)
        costs = [_cost(network, example) for network in networks]
        timing = measure_speed(model, example, original=original) if speed else None
    return Evidence(
        split=split,
        images=len(seen.labels),
        task=seen.task,
        classes=seen.classes,
        performance=PerformancePair(
            original=None if original is None else performances[0], model=performances[-1]
        ),
        cost=CostPair(original=None if original is None else costs[0], model=costs[-1]),
        speed=timing,
        explanations=explanations,
        decisions=decisions,
        samples=samples,
        seed=seed,
    )


@dataclass(frozen=True)
class _Seen:
    """What one pass over the data leaves in memory."""

    task: Task
    classes: tuple[str, ...]
    labels: Labels
    probabilities: list[Array]
    rows: dict[int, int]
    """Index of a kept image -> its row in labels and probabilities."""
    even: list[Candidate]
    changed: list[Candidate]
    example: Tensor


def _watch(
    networks: Sequence[nn.Module],
    data: Iterable[Any],
    task: Task | None,
    classes: Sequence[str] | None,
    split: str,
    explain: int,
    seed: int,
    place: torch.device,
) -> _Seen:
    names: tuple[str, ...] = () if classes is None else tuple(classes)
    labels: list[Labels] = []
    outcomes: list[list[Array]] = [[] for _ in networks]
    rows: dict[int, int] = {}
    even: Reservoir | None = None
    changed = Reservoir(SHOWN_CHANGED, seed)
    example: Tensor | None = None
    count = 0
    for batch in track(data, f"deciding the {split} images"):
        images, given = unpack(batch)
        if given is None:
            raise DebrideError(
                f"the batches of the {split} split have no labels: give (images, labels) "
                "or dicts with 'image' and 'label'"
            )
        with torch.no_grad():
            on_device = images.to(place)
            outputs = [logits(network(on_device)).float().cpu() for network in networks]
        if example is None:
            example = images[:16].clone()
            width = outputs[-1].shape[1]
            names = names or tuple(str(k) for k in range(2 if width == 1 else width))
            task = task or task_of(width, len(names), given.ndim == 2 and given.shape[1] > 1)
            even = Reservoir(-(-explain // len(names)), seed)
        assert task is not None
        assert even is not None
        truth = _labels(given, task, len(names), len(images), split)
        probable = [_probabilities(output, task, len(names)) for output in outputs]
        if len(networks) == 2:
            differs = compare_decisions(probable[0], probable[1], truth, task)[1]
        else:
            differs = np.zeros(len(truth), dtype=bool)
        strata = truth.argmax(axis=1) if task == "multilabel" else truth
        for offset, index in enumerate(_indices(batch, count, len(truth)) if explain > 0 else ()):
            rows[index] = count + offset
            even.offer(index, int(strata[offset]), images[offset])
            if differs[offset]:
                changed.offer(index, 0, images[offset])
        labels.append(truth)
        for some, p in zip(outcomes, probable, strict=True):
            some.append(p)
        count += len(truth)
    if example is None or task is None or even is None:
        raise DebrideError(f"the {split} split has no images: nothing can be measured on it")
    return _Seen(
        task=task,
        classes=names,
        labels=np.concatenate(labels),
        probabilities=[np.concatenate(some) for some in outcomes],
        rows=rows,
        even=even.in_turn()[:explain],
        changed=changed.in_turn(),
        example=example,
    )


def _labels(given: Tensor, task: Task, classes: int, images: int, split: str) -> Labels:
    shape = (images, classes) if task == "multilabel" else (images,)
    if given.ndim == 2 and given.shape[1] == 1 and task != "multilabel":
        given = given[:, 0]
    if tuple(given.shape) != shape:
        raise DebrideError(
            f"labels of shape {tuple(given.shape)} do not fit {images} images of a {task} task "
            f"with {classes} classes: {shape} is needed"
        )
    truth: Labels = given.detach().cpu().numpy().astype(np.int64)
    top = 1 if task == "multilabel" else classes - 1
    if truth.size and (truth.min() < 0 or truth.max() > top):
        wrong = int(truth.min()) if truth.min() < 0 else int(truth.max())
        raise DebrideError(
            f"label {wrong} in the {split} split is not within 0 and {top}: "
            "check the labels, or the number of the network's outputs"
        )
    return truth


def _probabilities(output: Tensor, task: Task, classes: int) -> Array:
    if not output.isfinite().all():
        raise DebrideError(
            "the network gives outputs that are not finite: check its weights, "
            "and the mean and std that the images are prepared with"
        )
    values: Array = probabilities(output, task).double().numpy()
    if values.shape[1] != classes:
        raise DebrideError(
            f"the network decides between {values.shape[1]} classes, but {classes} names "
            "were given: give one name for each output"
        )
    return values


def _indices(batch: Any, count: int, size: int) -> list[int]:
    """Positions in the split: as the loader gives them, else by counting."""
    given = batch.get("index") if isinstance(batch, Mapping) else None
    if isinstance(given, Tensor) and given.shape == (size,):
        return [int(index) for index in given]
    return list(range(count, count + size))


def _cost(model: nn.Module, example: Tensor) -> Cost:
    costs = measure(model, example[:1])
    return Cost(params=costs.params, macs=costs.macs, bytes=costs.bytes)


def _explain(
    networks: Sequence[nn.Module],
    seen: _Seen,
    explain: int,
    explainer: Explainer,
    place: torch.device,
) -> tuple[tuple[Sample, ...], Explanations | None]:
    """Compare heatmaps on the even sample; show some of them and some changed decisions."""
    compared = len(networks) == 2
    changed = [candidate.index for candidate in seen.changed]
    even = [candidate for candidate in seen.even if candidate.index not in changed]
    shown = [*seen.changed, *even][: min(SHOWN, explain)]
    pool = {c.index: c for c in [*(seen.even if compared else []), *shown]}
    order = list(pool)
    rows = [seen.rows[index] for index in order]
    targets = torch.from_numpy(seen.probabilities[0][rows].argmax(axis=1))
    images = torch.stack([pool[index].image for index in order]).to(place)
    maps = [
        heatmaps(network, images, targets.to(place), explainer)
        for network in track(networks, "explaining")
    ]
    correlations, overlaps = spearman(maps[0], maps[-1]), top_overlap(maps[0], maps[-1])
    evenly = [order.index(candidate.index) for candidate in seen.even] if compared else []
    decided = [decide(p[rows], seen.task) for p in seen.probabilities]
    samples = []
    for candidate in shown:
        at = order.index(candidate.index)
        cut = shown_slice(maps[0][at])
        scores = [
            float(p[rows[at], targets[at]] if seen.task == "multilabel" else p[rows[at]].max())
            for p in seen.probabilities
        ]
        samples.append(
            Sample(
                index=candidate.index,
                true=_class_indices(seen.labels[rows[at]]),
                after_classes=_class_indices(decided[-1][at]),
                after_score=scores[-1],
                target=int(targets[at]),
                before_classes=_class_indices(decided[0][at]) if compared else None,
                before_score=scores[0] if compared else None,
                spearman=_number(correlations[at]) if compared else None,
                top10_overlap=_number(overlaps[at]) if compared else None,
                slice=cut,
                image=picture(candidate.image if cut is None else candidate.image[:, cut]),
                before=_plane(maps[0][at], cut) if compared else None,
                after=_plane(maps[-1][at], cut),
            )
        )
    summary = summarise(correlations[evenly], overlaps[evenly])
    return tuple(samples), summary


def _class_indices(decision: Any) -> tuple[int, ...]:
    if np.ndim(decision) == 0:
        return (int(decision),)
    return tuple(int(k) for k in np.flatnonzero(decision))


def _plane(heatmap: Tensor, cut: int | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    plane: np.ndarray[Any, np.dtype[np.float32]] = (
        heatmap if cut is None else heatmap[cut]
    ).numpy()
    return plane


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
