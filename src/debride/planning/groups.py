"""Groups of coupled units: what must be cut together, found by tracing the network once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.attention import Heads
from debride.models.plain import check_plain
from debride.models.state import owners, undisturbed
from debride.planning import operations  # noqa: F401  (they register)
from debride.planning.coupling import LeftAlone, coupled, head_groups
from debride.planning.layers import bare_parameters
from debride.planning.plan import Group
from debride.planning.tracing import Trace
from debride.planning.trial import sound


@dataclass(frozen=True)
class Grouping:
    """All groups of a network that can be cut, and what is left alone."""

    groups: tuple[Group, ...]
    left_alone: tuple[LeftAlone, ...] = ()


def find_groups(model: nn.Module, example: Tensor, *, residual_width: bool = False) -> Grouping:
    """Find what can be cut in a network.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor
        (B, C, *spatial); the first image is used.
    residual_width : bool
        Whether the width of residual streams beside attention, and of ConvNeXt's, may be cut.

    Raises
    ------
    DebrideError
        When the network cannot be looked into or traced, or has nothing to cut.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> [(group.name, group.units) for group in find_groups(net, torch.zeros(1, 1, 8, 8)).groups]
    [('0', 8)]
    """
    example = example[:1].as_subclass(Tensor)
    with undisturbed(model):
        model.eval()
        try:
            check_plain(model, example)
        except DebrideError:
            raise
        except Exception as error:  # whatever a stranger's model raises
            raise DebrideError(
                f"the network does not run on one image of shape {tuple(example.shape[1:])}: "
                f"{_sentence(error)}"
            ) from error
        grouping = _on_trial(model, _traced(model, example, residual_width), example)
    if not grouping.groups:
        reasons = "; ".join(sorted({left.reason for left in grouping.left_alone}))
        raise DebrideError(
            f"nothing in this {type(model).__name__} can be cut: "
            f"{reasons or 'no convolution or linear layer feeds another'}"
        )
    return grouping


def _sentence(error: Exception) -> str:
    lines = str(error).splitlines() or ["(no message)"]
    return f"{type(error).__name__}: {lines[0]}"


def _on_trial(model: nn.Module, grouping: Grouping, example: Tensor) -> Grouping:
    found = owners(model)
    tied = {name for names in found.values() if len(names) > 1 for name in names}
    tied |= {n for n, p in bare_parameters(model).items() if len(found[id(p)]) > 1}
    own = [g for g in grouping.groups if not any(m.module in tied for m in g.members)]
    groups = sound(model, own, example)
    spoilt = tuple(
        LeftAlone(
            group.name,
            group.units,
            "removing these units is not the same as silencing them"
            if group in own
            else "layers share one weight",
        )
        for group in grouping.groups
        if group not in groups
    )
    return Grouping(groups, (*grouping.left_alone, *spoilt))


def _traced(model: nn.Module, example: Tensor, residual_width: bool) -> Grouping:
    trace = Trace(model, residual_width=residual_width)
    trace.run(example)
    groups, left = coupled(trace)
    for name, heads in trace.attention.items():
        if isinstance(heads, Heads):
            groups += head_groups(name, heads)
        else:
            left.append(LeftAlone(name, getattr(trace.modules[name], "num_heads", 1), heads))
    order = {name: position for position, name in enumerate(trace.modules)}
    groups.sort(key=lambda group: order[group.members[0].module])
    return Grouping(tuple(groups), tuple(left))
