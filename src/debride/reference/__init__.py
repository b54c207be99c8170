"""Reference samples: which training images the relevance is taken on."""

from debride.reference import strategies  # noqa: F401  (they register themselves)
from debride.reference.choosing import Chosen, choose
from debride.reference.registry import (
    Members,
    check_strategy,
    register_strategy,
    strategy_names,
)

__all__ = [
    "Chosen",
    "Members",
    "check_strategy",
    "choose",
    "register_strategy",
    "strategy_names",
]
