"""Rules for linear layers and convolutions, and the named sets ("composites") made of them."""

from debride.relevance.rules import composites  # noqa: F401  (they register themselves)
from debride.relevance.rules.backtrace import Backtrace, Contrastive
from debride.relevance.rules.base import Rule
from debride.relevance.rules.composites import HEATMAPS
from debride.relevance.rules.epsilon import Epsilon
from debride.relevance.rules.first import Flat, WSquare, ZBox
from debride.relevance.rules.gamma import Gamma
from debride.relevance.rules.registry import make_rule, register_rule, rule_names
from debride.relevance.rules.sets import (
    RuleSet,
    bounds_for,
    register_rules,
    rule_set,
    rule_set_names,
)
from debride.relevance.rules.zplus import AlphaBeta, ZPlus

__all__ = [
    "HEATMAPS",
    "AlphaBeta",
    "Backtrace",
    "Contrastive",
    "Epsilon",
    "Flat",
    "Gamma",
    "Rule",
    "RuleSet",
    "WSquare",
    "ZBox",
    "ZPlus",
    "bounds_for",
    "make_rule",
    "register_rule",
    "register_rules",
    "rule_names",
    "rule_set",
    "rule_set_names",
]
