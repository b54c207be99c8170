"""Modules whose code takes the width of a residual stream from an attribute of theirs."""

from __future__ import annotations

from torch import nn

_STATED = {
    "torchvision.models.vision_transformer.VisionTransformer": ("hidden_dim",),
    "monai.networks.nets.unetr.UNETR": ("hidden_size", "proj_view_shape"),
}
"""By class: the attributes that say the width; in a list it stands last."""


def _attributes(module: nn.Module) -> tuple[str, ...]:
    for kind in type(module).__mro__:
        if (found := _STATED.get(f"{kind.__module__}.{kind.__qualname__}")) is not None:
            return found
    return ()


def stated_width(module: nn.Module) -> int | None:
    """Return the width that a module states, or None where its code needs none.

    Examples
    --------
    >>> from torchvision.models import VisionTransformer
    >>> vit = VisionTransformer(32, 16, 1, 2, hidden_dim=8, mlp_dim=8)
    >>> state_width(vit, 6)
    >>> stated_width(vit)
    6
    """
    names = _attributes(module)
    return int(getattr(module, names[0])) if names else None


def state_width(module: nn.Module, width: int) -> None:
    """Tell a module, in place, the width that is left."""
    for name in _attributes(module):
        old = getattr(module, name)
        setattr(module, name, [*old[:-1], width] if isinstance(old, list) else width)
