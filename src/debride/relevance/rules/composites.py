"""The rule sets that come with the library; ε = 0, the limit, costs least."""

from __future__ import annotations

from collections.abc import Mapping

from debride.relevance.rules.backtrace import ACTIVATION_BOUNDS, Backtrace, Contrastive
from debride.relevance.rules.base import Rule
from debride.relevance.rules.epsilon import Epsilon
from debride.relevance.rules.first import Flat, ZBox
from debride.relevance.rules.gamma import Gamma
from debride.relevance.rules.sets import RuleSet, register_rules
from debride.relevance.rules.zplus import AlphaBeta, ZPlus

HEATMAPS = "epsilon_gamma_box"
"""The rule set of heatmaps where none is asked for: docs/evidence.md says why."""


@register_rules("epsilon")
def epsilon(epsilon: float = 0.0) -> RuleSet:
    """The ε rule everywhere."""
    return RuleSet("epsilon", linear=Epsilon(epsilon), convolution=Epsilon(epsilon))


@register_rules("attnlrp")
def attnlrp(gamma: float = 0.0) -> RuleSet:
    """For transformers (Achtibat et al. 2024): ε, and γ on convolutions if one is given."""
    patches: Rule = Gamma(gamma) if gamma else Epsilon()
    return RuleSet("attnlrp", linear=Epsilon(), convolution=patches)


@register_rules("cplrp")
def cplrp() -> RuleSet:
    """For transformers (Ali et al. 2022): attention weights are constants."""
    return RuleSet("cplrp", linear=Epsilon(), convolution=Epsilon(), attention="cp")


@register_rules("epsilon_plus")
def epsilon_plus(epsilon: float = 0.0, bias: bool = True) -> RuleSet:
    """z⁺ for convolutions, ε for linear layers."""
    return RuleSet("epsilon_plus", linear=Epsilon(epsilon), convolution=ZPlus(bias=bias))


@register_rules("epsilon_plus_flat")
def epsilon_plus_flat(epsilon: float = 0.0, bias: bool = True) -> RuleSet:
    """z⁺ for convolutions, ε for linear layers, the first layer flat."""
    return RuleSet("epsilon_plus_flat", Epsilon(epsilon), ZPlus(bias=bias), first=Flat())


@register_rules("epsilon_alpha2_beta1_flat")
def epsilon_alpha2_beta1_flat(epsilon: float = 0.0) -> RuleSet:
    """αβ with α = 2, β = 1 for convolutions, ε for linear layers, the first layer flat."""
    rule = AlphaBeta(2.0, 1.0)
    return RuleSet("epsilon_alpha2_beta1_flat", Epsilon(epsilon), rule, first=Flat())


@register_rules("epsilon_gamma_box")
def epsilon_gamma_box(
    low: float | tuple[float, ...] | None = None,
    high: float | tuple[float, ...] | None = None,
    gamma: float = 0.25,
    epsilon: float = 0.0,
) -> RuleSet:
    """γ for convolutions, ε for linear layers, z^B within pixel bounds for the first layer."""
    return RuleSet("epsilon_gamma_box", Epsilon(epsilon), Gamma(gamma), first=ZBox(low, high))


@register_rules("dlb")
def dlb(later: bool = False, bounds: Mapping[str, tuple[float, float]] | bool = False) -> RuleSet:
    """DL-Backtrace, default mode."""
    chosen = (ACTIVATION_BOUNDS if bounds else {}) if isinstance(bounds, bool) else bounds
    rule = Backtrace(later=later, bounds=chosen)
    return RuleSet("dlb", rule, rule, sums="abs", averages="abs", ties="split", attention="pass")


@register_rules("dlb_contrastive")
def dlb_contrastive() -> RuleSet:
    """DL-Backtrace, contrastive mode; `attribute` runs it as ``method="dlb_contrastive"``."""
    rule = Contrastive()
    return RuleSet(
        "dlb_contrastive", rule, rule, sums="abs", averages="abs", ties="split", attention="pass"
    )
