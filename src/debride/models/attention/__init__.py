"""Attention modules that can lose heads; one file a family."""

from debride.models.attention.registry import (
    INPUT,
    Heads,
    Opened,
    attend,
    heads_of,
    is_attention,
    open_up,
    opened,
    register_attention,
)

__all__ = [
    "INPUT",
    "Heads",
    "Opened",
    "attend",
    "heads_of",
    "is_attention",
    "open_up",
    "opened",
    "register_attention",
]
