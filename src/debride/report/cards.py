"""One explained image: the picture, and the heatmaps before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from debride.evidence.evidence import Evidence, Sample
from debride.report import findings, heatmaps, words


@dataclass(frozen=True)
class Picture:
    """One picture of a card."""

    heading: str
    decision: str
    uri: str
    alt: str


@dataclass(frozen=True)
class Card:
    """What is shown of one image."""

    title: str
    true: str
    explained: str
    sample: Sample
    pictures: list[Picture]
    kind: str
    """Of a decision that changed, a key of `findings.KINDS`; "same" for one that did not."""
    small: bool
    outlined: bool

    @property
    def change(self) -> str | None:
        """What became of the decision, in words."""
        return findings.KINDS.get(self.kind)


def card(sample: Sample, evidence: Evidence, title: str) -> Card:
    """Draw one sample, which has pictures."""
    assert sample.image is not None
    image = heatmaps.shrunk(sample.image)
    pictures = [
        Picture("Image", "", heatmaps.as_png(image), f"{title} as the network sees it"),
    ]
    after = "Pruned" if evidence.cost["original"] else "Network"
    if sample.before is not None and sample.before_classes is not None:
        pictures.append(heatmap(sample, evidence, "Original", title, before=True))
    if sample.after is not None:
        pictures.append(heatmap(sample, evidence, after, title))
    return Card(
        title=title,
        true=listed(sample.true, evidence),
        explained=evidence.classes[sample.target],
        sample=sample,
        pictures=pictures,
        kind=kind_of(sample),
        small=max(image.shape[:2]) < 96,
        outlined=sample.mask is not None,
    )


def heatmap(
    sample: Sample, evidence: Evidence, heading: str, title: str, *, before: bool = False
) -> Picture:
    """Draw one heatmap of a sample over its image, with what its network decided."""
    relevance = sample.before if before else sample.after
    decided = sample.before_classes if before else sample.after_classes
    score = sample.before_score if before else sample.after_score
    assert sample.image is not None
    assert relevance is not None
    drawn = heatmaps.overlay(heatmaps.shrunk(sample.image), heatmaps.shrunk(relevance))
    if sample.mask is not None:
        drawn = heatmaps.outlined(drawn, heatmaps.shrunk(sample.mask))
    target = evidence.classes[sample.target]
    return Picture(
        heading,
        f"{listed(decided or (), evidence)} {words.percent(score, 0)}",
        heatmaps.as_png(drawn),
        f"{heading}: heatmap for {target} on {title}",
    )


def kind_of(sample: Sample) -> str:
    """Say what became of a decision."""
    if not sample.changed:
        return "same"
    if sample.before_classes == sample.true:
        return "lost"
    return "gained" if sample.after_classes == sample.true else "otherwise"


def listed(classes: Sequence[int], evidence: Evidence) -> str:
    """Name classes: one, several or none."""
    return ", ".join(evidence.classes[k] for k in classes) or "none"
