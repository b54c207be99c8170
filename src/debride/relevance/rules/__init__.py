"""Rules for linear layers and convolutions, and the named sets ("composites") made of them."""

from debride.relevance.rules.base import (
    Rule,
    RuleSet,
    register_rules,
    rule_set,
    rule_set_names,
)
from debride.relevance.rules.epsilon import Epsilon
from debride.relevance.rules.flat import Flat
from debride.relevance.rules.zplus import ZPlus

__all__ = [
    "Epsilon",
    "Flat",
    "Rule",
    "RuleSet",
    "ZPlus",
    "register_rules",
    "rule_set",
    "rule_set_names",
]


@register_rules("epsilon")
def _epsilon() -> RuleSet:
    return RuleSet("epsilon", linear=Epsilon(), convolution=Epsilon())


@register_rules("attnlrp")
def _attnlrp() -> RuleSet:
    """For transformers (Achtibat et al. 2024): ε = 0; attention's own rules hold in every set."""
    return RuleSet("attnlrp", linear=Epsilon(), convolution=Epsilon())


@register_rules("epsilon_plus")
def _epsilon_plus() -> RuleSet:
    return RuleSet("epsilon_plus", linear=Epsilon(1e-6), convolution=ZPlus())


@register_rules("epsilon_plus_flat")
def _epsilon_plus_flat() -> RuleSet:
    return RuleSet("epsilon_plus_flat", linear=Epsilon(1e-6), convolution=ZPlus(), first=Flat())
