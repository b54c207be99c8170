"""Criteria: one raw score for each removable unit, over a reference sample."""

from debride.criteria import (  # noqa: F401  (they register themselves)
    activations,
    loss,
    relevance,
    weights,
)
from debride.criteria.registry import (
    Criterion,
    check_criterion,
    criterion_names,
    criterion_options,
    register_criterion,
    score,
    with_defaults,
)
from debride.criteria.scores import Scores

__all__ = [
    "Criterion",
    "Scores",
    "check_criterion",
    "criterion_names",
    "criterion_options",
    "register_criterion",
    "score",
    "with_defaults",
]
