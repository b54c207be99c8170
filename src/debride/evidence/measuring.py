"""Measure a network, and the original beside it, on one split: the whole of the evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.evidence.calibration import calibration
from debride.evidence.changed import changed
from debride.evidence.chosen import Candidate
from debride.evidence.columns import check_columns, cut_columns
from debride.evidence.evidence import (
    Cost,
    CostPair,
    Evidence,
    PerformancePair,
    Sample,
)
from debride.evidence.explanations import (
    Explainer,
    Explanations,
    explainer_of,
    heatmaps,
    lrp_explainer,
    spearman,
    summarise,
    top_overlap,
    usual_methods,
)
from debride.evidence.localisation import Localisation, localisation
from debride.evidence.pictures import picture, shown_slice, thumbnail
from debride.evidence.reasons import Reasons, measure_reasons
from debride.evidence.robustness import Robustness, Scale, measure_robustness
from debride.evidence.speed import measure_onnx_speed, measure_speed
from debride.evidence.state import device_of, frozen, placed
from debride.evidence.statistics import SPECIFICITY, statistics
from debride.evidence.subgroups import Subgroups, subgroups
from debride.evidence.task import class_indices, compare_decisions, decide, performance
from debride.evidence.verdict import Limits, judge
from debride.evidence.watching import Seen, watch
from debride.models.outputs import Task
from debride.planning.costs import measure
from debride.progress import track
from debride.relevance.rules import HEATMAPS, RuleSet, rule_set

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
    explain: int = 100,
    explainer: Explainer | None = None,
    methods: Sequence[str] | None = None,
    second: nn.Module | None = None,
    robustness: int = 200,
    scale: Scale | None = None,
    speed: bool = True,
    onnx_speed: bool = False,
    rules: str | RuleSet = HEATMAPS,
    columns: Mapping[str, Sequence[Any]] | None = None,
    subgroups: Sequence[str] | None = None,
    specificity: float = SPECIFICITY,
    limits: Limits | None = None,
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
        Labels are (B,) class indices, or (B, K) of 0 and 1 for multi-label tasks. Dicts may have
        "mask" (B, 1, *spatial), not zero on the lesion: then localisation is measured.
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
        What makes the heatmaps, instead of `methods`; by default LRP with `rules`.
    methods
        Explanation methods whose heatmaps are held against a yardstick, the first also under
        corruptions; by default LRP and, where the network has maps, Grad-CAM. None of them: ().
    second
        A second training of the original, as a yardstick beside input noise.
    robustness
        Images that are corrupted, drawn evenly from the classes; 0 for none.
    scale
        How `data` were made from pixels, for the corruptions; by default the range of their
        values is taken for that from black to white.
    speed
        Whether to time both networks, a few seconds for each batch size.
    onnx_speed
        Whether to export both networks and time them in onnxruntime too.
    rules
        LRP's rule set of the heatmaps. γ and the bounds of the pixels (Montavon et al. 2019) give
        heatmaps that hardly move under noise and move much in a damaged network (docs/evidence.md);
        without bounds, each image's own extremes are taken.
    columns
        What is known of each image, by name: a value for every position in the split (a batch's
        "index", else in the order of `data`). Subgroups are made of them.
    subgroups
        Which of the columns; by default those with 2 to 8 values and those of numbers.
    specificity
        At which sensitivity is reported, between 0 and 1.
    limits
        What the verdict holds the evidence against.
    seed
        Of the choice of images, and of the bootstrap.
    device
        Where to measure; by default where the model is.

    Returns
    -------
    Evidence
        Performance with intervals, calibration, subgroups, changed decisions, cost, speed,
        explanations and their yardsticks, localisation, robustness, the verdict, and samples
        for the report.

    Raises
    ------
    DebrideError
        When there are no images or labels, labels do not fit the outputs, outputs are not
        finite, or a column is not there, does not fit or identifies.
    """
    if not 0 < specificity < 1:
        raise DebrideError(f"specificity is {specificity:g}: give a share between 0 and 1")
    check_columns(list(columns or {}), subgroups)
    place = device_of(model) if device is None else torch.device(device)
    model = placed(model, place)
    original = None if original is None else placed(original, place)
    second = None if second is None else placed(second, place)
    networks = [model] if original is None else [original, model]
    rules = rule_set(rules)
    with frozen(*networks, *([] if second is None else [second])):
        seen = watch(networks, data, task, classes, split, explain, robustness, seed, place)
        p, labels, task = seen.probabilities, seen.labels, seen.task
        samples: tuple[Sample, ...] = ()
        explanations, located, maps = None, None, None
        if explain > 0:
            samples, explanations, located, maps = _explain(
                networks, seen, explain, explainer or lrp_explainer(rules), place, seed
            )
            if explanations is not None and explainer is None:
                explanations = {**explanations, "method": "lrp", "rules": rules.name}
        example = seen.example.to(place)
        if explainer is not None:
            explainers = {"custom": explainer}
        else:
            named = usual_methods(networks, example[:1]) if methods is None else methods
            explainers = {method: explainer_of(method, rules) for method in named}
        known = {"lrp" if explainer is None else "custom": maps} if maps else {}
        reasons = _reasons(networks, second, seen, explainers, rules, known, place, seed)
        robust = _robustness(networks, seen, explainers, scale, place, seed)
        costs = [_cost(network, example) for network in networks]
        timing = measure_speed(model, example, original=original) if speed else None
        if timing is not None and onnx_speed:
            timing = {**timing, "onnx": measure_onnx_speed(networks, example)}
    performances = [performance(each, labels, task, seen.classes, split) for each in p]
    both = original is not None
    evidence = Evidence(
        split=split,
        images=len(labels),
        task=task,
        classes=seen.classes,
        performance=PerformancePair(
            original=performances[0] if both else None, model=performances[-1]
        ),
        cost=CostPair(original=costs[0] if both else None, model=costs[-1]),
        speed=timing,
        explanations=explanations,
        decisions=compare_decisions(p[0], p[1], labels, task)[0] if both else None,
        statistics=statistics(p, labels, task, specificity=specificity, seed=seed),
        calibration=calibration(p, labels, task, seed=seed),
        subgroups=_subgroups(seen, columns, subgroups, seed),
        changed=changed(p[0], p[1], labels, task, seen.indices, seed=seed) if both else None,
        localisation=located,
        reasons=reasons,
        robustness=robust,
        samples=samples,
        thumbnails=tuple(thumbnail(candidate.image) for candidate in seen.changed),
        seed=seed,
    )
    return dataclasses.replace(evidence, verdict=judge(evidence, limits))


def _subgroups(
    seen: Seen,
    columns: Mapping[str, Sequence[Any]] | None,
    wanted: Sequence[str] | None,
    seed: int,
) -> Subgroups | None:
    if not columns:
        return None
    for name, values in columns.items():
        if len(values) <= max(seen.indices):
            raise DebrideError(
                f"the column '{name}' has {len(values)} values and there is an image at position "
                f"{max(seen.indices)}: give a value for every image of the split"
            )
    aligned = {name: [columns[name][index] for index in seen.indices] for name in columns}
    cuts, left_out = cut_columns(aligned, wanted)
    return subgroups(seen.probabilities, seen.labels, seen.task, cuts, left_out, seed=seed)


def _reasons(
    networks: Sequence[nn.Module],
    second: nn.Module | None,
    seen: Seen,
    explainers: Mapping[str, Explainer],
    rules: RuleSet,
    known: Mapping[str, Sequence[Tensor]],
    place: torch.device,
    seed: int,
) -> dict[str, Reasons] | None:
    if not seen.even or not explainers:
        return None
    return measure_reasons(
        networks,
        torch.stack([candidate.image for candidate in seen.even]).to(place),
        _targets(seen, seen.even).to(place),
        explainers,
        task=seen.task,
        indices=[candidate.index for candidate in seen.even],
        strata=[candidate.stratum for candidate in seen.even],
        classes=len(seen.classes),
        second=second,
        rules=rules.name,
        known=known,
        seed=seed,
    )


def _robustness(
    networks: Sequence[nn.Module],
    seen: Seen,
    explainers: Mapping[str, Explainer],
    scale: Scale | None,
    place: torch.device,
    seed: int,
) -> Robustness | None:
    if not seen.changing:
        return None
    method, explainer = next(iter(explainers.items()), ("none", None))
    return measure_robustness(
        networks,
        torch.stack([candidate.image for candidate in seen.changing]).to(place),
        seen.labels[_rows(seen, seen.changing)],
        _targets(seen, seen.changing).to(place),
        explainer,
        task=seen.task,
        classes=seen.classes,
        scale=scale,
        method=method,
        seed=seed,
    )


def _rows(seen: Seen, chosen: Sequence[Candidate]) -> list[int]:
    places = {index: row for row, index in enumerate(seen.indices)}
    return [places[candidate.index] for candidate in chosen]


def _targets(seen: Seen, chosen: Sequence[Candidate]) -> Tensor:
    """Give the original's most likely class of each image."""
    return torch.from_numpy(seen.probabilities[0][_rows(seen, chosen)].argmax(axis=1))


def _cost(model: nn.Module, example: Tensor) -> Cost:
    costs = measure(model, example[:1])
    return Cost(params=costs.params, macs=costs.macs, bytes=costs.bytes)


def _explain(
    networks: Sequence[nn.Module],
    seen: Seen,
    explain: int,
    explainer: Explainer,
    place: torch.device,
    seed: int,
) -> tuple[tuple[Sample, ...], Explanations | None, Localisation | None, list[Tensor] | None]:
    """Compare heatmaps on the even sample; show some of them and some changed decisions.

    The heatmaps of the even sample are given too, where all were made.
    """
    compared = len(networks) == 2
    masks = [candidate.mask for candidate in seen.even if candidate.mask is not None]
    changed = seen.changed[:SHOWN_CHANGED]
    apart = {candidate.index for candidate in changed}
    even = [candidate for candidate in seen.even if candidate.index not in apart]
    shown = [*changed, *even][: min(SHOWN, explain)]
    pool = {c.index: c for c in [*(seen.even if compared or masks else []), *shown]}
    order = list(pool)
    places = {index: row for row, index in enumerate(seen.indices)}
    rows = [places[index] for index in order]
    targets = torch.from_numpy(seen.probabilities[0][rows].argmax(axis=1))
    images = torch.stack([pool[index].image for index in order]).to(place)
    maps = [
        heatmaps(network, images, targets.to(place), explainer)
        for network in track(networks, "explaining")
    ]
    correlations, overlaps = spearman(maps[0], maps[-1]), top_overlap(maps[0], maps[-1])
    evenly = [order.index(candidate.index) for candidate in seen.even if candidate.index in pool]
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
                true=class_indices(seen.labels[rows[at]]),
                after_classes=class_indices(decided[-1][at]),
                after_score=scores[-1],
                target=int(targets[at]),
                before_classes=class_indices(decided[0][at]) if compared else None,
                before_score=scores[0] if compared else None,
                spearman=_number(correlations[at]) if compared else None,
                top10_overlap=_number(overlaps[at]) if compared else None,
                slice=cut,
                image=picture(candidate.image if cut is None else candidate.image[:, cut]),
                before=_plane(maps[0][at], cut) if compared else None,
                after=_plane(maps[-1][at], cut),
                mask=_mask(candidate, cut),
            )
        )
    summary = summarise(correlations[evenly], overlaps[evenly]) if compared else None
    located = None
    if masks and len(masks) == len(evenly):
        located = localisation(
            [some[evenly] for some in maps],
            torch.stack(masks),
            [candidate.stratum for candidate in seen.even if candidate.index in pool],
            classes=len(seen.classes),
            seed=seed,
        )
    whole = [some[evenly] for some in maps] if len(evenly) == len(seen.even) else None
    return tuple(samples), summary, located, whole


def _plane(heatmap: Tensor, cut: int | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    plane: np.ndarray[Any, np.dtype[np.float32]] = (
        heatmap if cut is None else heatmap[cut]
    ).numpy()
    return plane


def _mask(candidate: Candidate, cut: int | None) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    if candidate.mask is None or not candidate.mask.any():
        return None
    plane = candidate.mask if cut is None else candidate.mask[cut]
    inside: np.ndarray[Any, np.dtype[np.uint8]] = (plane != 0).numpy().astype(np.uint8)
    return inside


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
