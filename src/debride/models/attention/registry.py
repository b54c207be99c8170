"""Which attention modules can lose heads, and how each is opened up for it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

INPUT = "@input"
"""Ends the name of a tap that is read where a module's input comes in, as what heads give is."""


@dataclass(frozen=True)
class Heads:
    """Where the heads of an attention module lie; layers are named from the module on.

    Attributes
    ----------
    count : int
    size : int
        Dimensions of each head.
    rows : tuple of (str, int)
        Layer and first output position of queries, keys and values; "" is the module itself.
    output : str
        The layer that reads what the heads give.
    tensors : tuple of str
        Parameters, named from the module on, that belong to no layer and shrink with the heads.
    others : tuple of str
        Layers with one output a head, such as those that make position biases.
    whole : bool
        Whether dimensions of a head must stay (they are normalised).
    reads : int
        Width of what projections read whose rows are the module's own; 0 where layers read.
    """

    count: int
    size: int
    rows: tuple[tuple[str, int], ...]
    output: str
    tensors: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    whole: bool = False
    reads: int = 0


class Opened:
    """Mixin of the attention classes that run with any number of heads of any size.

    A module is opened by changing its class, so that its tensors keep their names. `head_size`
    and `head_scale` are then its own: the scale stays that of the uncut heads.
    """

    num_heads: int
    head_size: int
    head_scale: float

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where a module's heads lie, or why none can be cut."""
        raise NotImplementedError

    def keep_heads(self, index: Tensor) -> None:
        """Cut what the module itself has one of for each head."""

    def keep_rows(self, index: Tensor) -> None:
        """Cut projections whose rows are the module's own."""
        raise NotImplementedError

    def keep_inputs(self, index: Tensor) -> None:
        """Cut what such projections read."""
        raise NotImplementedError


_KINDS: dict[type[nn.Module], type[Opened]] = {}

_FILES = {
    "torch.nn.modules.activation": "multihead",
    "torchvision.models.swin_transformer": "torchvision",
    "timm.layers.attention": "timm",
    "timm.models.swin_transformer": "timm",
    "monai.networks.blocks.selfattention": "monai",
    "monai.networks.nets.swin_unetr": "monai",
    "transformers.models.vit.modeling_vit": "huggingface",
    "transformers.models.deit.modeling_deit": "huggingface",
    "transformers.models.swin.modeling_swin": "huggingface",
}
"""Where attention is defined, and the file here that opens it; read when such a module is met."""


def register_attention(*kinds: type[nn.Module]) -> Callable[[type[Opened]], type[Opened]]:
    """Register the opened class of these attention classes (not of classes made from them)."""

    def add(opened_class: type[Opened]) -> type[Opened]:
        for kind in kinds:
            _KINDS[kind] = opened_class
        return opened_class

    return add


def _kind(module: nn.Module) -> type[Opened] | None:
    if isinstance(module, Opened):
        return type(module)
    if (file := _FILES.get(type(module).__module__)) is not None:
        importlib.import_module(f"debride.models.attention.{file}")
    return _KINDS.get(type(module))


def is_attention(module: nn.Module) -> bool:
    """Tell whether a module is attention that is known here."""
    return _kind(module) is not None


def heads_of(module: nn.Module) -> Heads | str:
    """Return where the heads of a known attention module lie, or why none can be cut."""
    kind = _kind(module)
    assert kind is not None
    exchanged = "attention whose projections are no plain linear layers"
    try:
        heads = kind.describe(module)
    except AttributeError:
        return exchanged
    if isinstance(heads, str):
        return heads
    layers = {heads.output, *(layer for layer, _ in heads.rows if layer)}
    plain = all(
        isinstance(layer, nn.Linear) and not is_parametrized(layer)
        for layer in (module.get_submodule(name) for name in layers)
    )
    return heads if plain and not is_parametrized(module) else exchanged


def open_up(module: nn.Module) -> Opened:
    """Change a module's class, in place, to the one that runs with any number of heads."""
    if isinstance(module, Opened):
        return module
    heads = heads_of(module)
    assert isinstance(heads, Heads), heads
    module.__class__ = _KINDS[type(module)]  # type: ignore[assignment]
    assert isinstance(module, Opened)
    module.num_heads, module.head_size, module.head_scale = (
        heads.count,
        heads.size,
        heads.size**-0.5,
    )
    return module


@contextlib.contextmanager
def opened(model: nn.Module) -> Iterator[None]:
    """Open all attention of a network for a while, so that what its heads give can be seen.

    Examples
    --------
    >>> attention = nn.MultiheadAttention(8, 2)
    >>> with opened(attention):
    ...     print(type(attention).__name__)
    OpenMultihead
    >>> type(attention).__name__
    'MultiheadAttention'
    """
    closed = [
        (module, type(module))
        for module in model.modules()
        if not isinstance(module, Opened)
        and is_attention(module)
        and isinstance(heads_of(module), Heads)
    ]
    try:
        for module, _ in closed:
            open_up(module)
        yield
    finally:
        for module, kind in closed:
            module.__class__ = kind
            for name in ("head_size", "head_scale"):
                vars(module).pop(name, None)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    scale: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend with (B, N, heads · size) tensors; `bias` (..., heads, N, M) is added to the scores.

    Of the weights that attention gives, `dropout` go to zero.

    Returns
    -------
    Tensor
        (B, N, heads · size).
    """
    query, key, value = (
        each.reshape(*each.shape[:2], heads, -1).transpose(1, 2) for each in (query, key, value)
    )
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
    )
    out = out.transpose(1, 2)
    return out.reshape(*out.shape[:2], -1)


def fused_rows(module: Any) -> dict[str, Any]:
    """Return count, size and rows of heads whose projections are one layer `qkv`."""
    width = module.qkv.out_features // 3
    return {
        "count": module.num_heads,
        "size": width // module.num_heads,
        "rows": (("qkv", 0), ("qkv", width), ("qkv", 2 * width)),
    }


def keep(module: nn.Module, name: str, dim: int, index: Tensor) -> None:
    """Keep `index` along one dimension of a parameter or buffer, if the module has it."""
    old = getattr(module, name, None)
    if old is None:
        return
    new = old.detach().index_select(dim, index.to(old.device)).clone()
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, name, new)


def is_identity(module: object) -> bool:
    """Tell whether a part of a module does nothing."""
    return module is None or isinstance(module, nn.Identity)


def as_bias(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask whose True entries are shut out, or a float mask, as a term of the scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
