"""Relevance: one forward and one relevance pass through any PyTorch model."""

from debride.relevance import (  # noqa: F401  (they register themselves)
    attention,
    backtrace,
    cam,
    compounds,
    gradients,
    integrated,
    norms,
    occlusion,
    operators,
    pooling,
    sums,
)
from debride.relevance.audit import Audit, audit
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.methods import (
    Request,
    attribute,
    method_names,
    method_options,
    method_title,
    pass_rules,
    register_method,
)
from debride.relevance.result import Relevance
from debride.relevance.rules import RuleSet, register_rules, rule_set, rule_set_names
from debride.relevance.targets import Region
from debride.relevance.without_rules import GradientPass

__all__ = [
    "Audit",
    "GradientPass",
    "Region",
    "Relevance",
    "RelevancePass",
    "Request",
    "RuleSet",
    "attribute",
    "audit",
    "method_names",
    "method_options",
    "method_title",
    "pass_rules",
    "register_method",
    "register_operator",
    "register_rules",
    "rule_set",
    "rule_set_names",
]
