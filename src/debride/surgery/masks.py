"""The same plan as masks: removed units are silent, whatever would read or count them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from debride.errors import DebrideError
from debride.planning.layers import Part, is_grouped, normalises_together, part, width
from debride.planning.plan import PlannedGroup, removed_positions
from debride.surgery.layers import cutter_of


def mask(model: nn.Module, groups: Iterable[PlannedGroup]) -> None:
    """Silence in place the units that `groups` do not keep.

    Every layer that reads them reads nothing there, a norm over several channels takes its
    statistics over those kept, and queries and keys have nothing in dimensions that are gone.
    """
    groups = list(groups)
    dims = {m.module for g in groups if g.kind == "head_dim" for m in g.members if m.side == "out"}
    for (name, side), removed in removed_positions(groups).items():
        module = named(model, name)
        index = torch.tensor(sorted(removed), dtype=torch.long)
        if not removed or isinstance(module, Tensor):  # what a bare parameter adds is read nowhere
            continue
        if side == "out" and normalises_together(module):
            _replace(model, name, KeptNorm(module, removed))
        elif side == "out" and name in dims:
            for tensor in _rows(module):
                _clear(tensor, 0, index)
        elif side == "in" and not is_grouped(module):
            _clear(_rows(module)[0], 0 if isinstance(module, _ConvTransposeNd) else 1, index)


class KeptNorm(nn.Module):
    """A norm that neither counts nor gives out the channels that are gone."""

    def __init__(self, norm: nn.Module, removed: set[int]) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.channels = width(norm, "out")
        kept = torch.tensor([p for p in range(self.channels) if p not in removed])
        self.register_buffer("kept", kept)
        cutter = cutter_of(self.norm)
        assert cutter is not None
        cutter(self.norm, "out", kept)
        # "2d" is how torchvision and timm name layer norms of (B, C, H, W).
        last = not isinstance(norm, nn.GroupNorm) and "2d" not in type(norm).__name__.lower()
        self.dim = -1 if last else 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the kept channels; the others are zero."""
        kept = self.kept
        assert isinstance(kept, Tensor)
        kept = kept.to(x.device)
        normed = self.norm(x.index_select(self.dim, kept))
        return torch.zeros_like(x).index_copy(self.dim, kept, normed)


def _rows(module: nn.Module) -> list[Tensor]:
    found = [getattr(module, n, None) for n in ("weight", "bias", "in_proj_weight", "in_proj_bias")]
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def _clear(tensor: Tensor, dim: int, index: Tensor) -> None:
    with torch.no_grad():
        tensor.index_fill_(dim, index.to(tensor.device), 0)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def named(model: nn.Module, name: str) -> Part:
    """Return the layer or bare parameter that a plan names."""
    try:
        return part(model, name)
    except AttributeError as error:
        raise DebrideError(f"the plan names a module '{name}' that is not there") from error
