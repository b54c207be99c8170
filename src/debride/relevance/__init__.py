"""Relevance: one forward and one relevance pass through any PyTorch model."""

from debride.relevance import attention, norms, operators, pooling, sums  # noqa: F401  (they register themselves)
from debride.relevance.engine import GradientPass, RelevancePass, register_operator
from debride.relevance.methods import Relevance, attribute
from debride.relevance.rules import RuleSet, register_rules, rule_set, rule_set_names

__all__ = [
    "GradientPass",
    "Relevance",
    "RelevancePass",
    "RuleSet",
    "attribute",
    "register_operator",
    "register_rules",
    "rule_set",
    "rule_set_names",
]
