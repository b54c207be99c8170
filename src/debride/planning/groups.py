"""Groups of coupled units: what must be cut together, found by tracing the network once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from debride.errors import DebrideError
from debride.models.plain import check_plain
from debride.models.state import undisturbed
from debride.planning.layers import is_depthwise
from debride.planning.plan import Group, Member, Side, Tap
from debride.planning.trial import explained_part, sound


@dataclass(frozen=True)
class LeftAlone:
    """Units that are not cut, and why."""

    name: str
    units: int
    reason: str


@dataclass(frozen=True)
class Grouping:
    """All groups of a network that can be cut, and what is left alone."""

    groups: tuple[Group, ...]
    left_alone: tuple[LeftAlone, ...] = ()


Adapter = Callable[[nn.Module, Tensor], Grouping | None]

_ADAPTERS: list[Adapter] = []


def register_adapter(adapter: Adapter) -> Adapter:
    """Register a function that groups networks of one kind; it returns None for any other.

    The adapter registered last is asked first.
    """
    _ADAPTERS.insert(0, adapter)
    return adapter


def find_groups(model: nn.Module, example: Tensor) -> Grouping:
    """Find what can be cut in a network.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor
        (B, C, *spatial); the first image is used.

    Raises
    ------
    DebrideError
        When the network cannot be looked into or traced, or has nothing to cut.

    Examples
    --------
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
        for adapter in _ADAPTERS:
            grouping = adapter(model, example)
            if grouping is None:
                continue
            grouping = _on_trial(model, grouping, example)
            if not grouping.groups:
                reasons = "; ".join(sorted({left.reason for left in grouping.left_alone}))
                raise DebrideError(
                    f"nothing in this {type(model).__name__} can be cut: "
                    f"{reasons or 'no convolution or linear layer feeds another'}"
                )
            return grouping
    raise DebrideError(f"no adapter can trace this {type(model).__name__}")


def _sentence(error: Exception) -> str:
    lines = str(error).splitlines() or ["(no message)"]
    return f"{type(error).__name__}: {lines[0]}"


def _on_trial(model: nn.Module, grouping: Grouping, example: Tensor) -> Grouping:
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    tied = {name for names in owners.values() if len(names) > 1 for name in names}
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


# -- convolutional networks: Torch-Pruning's dependency graph -----------------------------------


@register_adapter
def dependency_graph(model: nn.Module, example: Tensor) -> Grouping | None:
    """Group channels by Torch-Pruning's `DependencyGraph` (Fang et al. 2023)."""
    names = {module: name for name, module in model.named_modules()}
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(
                model, example_inputs=example, output_transform=explained_part, verbose=False
            )
            found = list(graph.get_all_groups(root_module_types=[_ConvNd, nn.Linear]))
    except DebrideError:
        raise
    except Exception as error:  # whatever a third-party tracer meets in a stranger's model
        raise DebrideError(
            f"Torch-Pruning cannot trace this {type(model).__name__}: {_sentence(error)}"
        ) from error
    norms = _following_norms(model, example)
    groups: list[Group] = []
    left: list[LeftAlone] = []
    for items in found:
        group = _read_group(items, names, norms)
        if isinstance(group, Group):
            groups.append(group)
        elif group is not None:
            left.append(group)
    order = {name: position for position, name in enumerate(names.values())}
    groups.sort(key=lambda group: order[group.name])
    return Grouping(tuple(groups), tuple(left))


def _read_group(
    items: Any, names: dict[nn.Module, str], norms: dict[str, str]
) -> Group | LeftAlone | None:
    root = names[items[0].dep.target.module]
    units = len(items[0].idxs)
    members: dict[tuple[str, Side, int], Member] = {}
    producers: list[str] = []
    reads = False
    for item in items:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return LeftAlone(root, units, "a bare parameter runs along these channels")
        if module not in names:
            continue  # a node of the graph (sum, reshape, join), not a layer
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue  # one slope for all channels
        side: Side = "out" if "out" in item.dep.handler.__name__ else "in"
        reason = _why_not(module)
        if reason:
            return LeftAlone(root, units, reason)
        depthwise = isinstance(module, _ConvNd) and module.groups > 1
        if depthwise:
            side = "out"
        member = _member(names[module], side, item.idxs, item.root_idxs, units)
        if member is None:
            return LeftAlone(root, units, f"'{names[module]}' orders its channels irregularly")
        members[(member.module, side, member.offset)] = member
        if isinstance(module, _ConvNd | nn.Linear):
            if side == "out" and member.module not in producers:
                producers.append(member.module)
            reads = reads or side == "in"
    if not reads:
        return None  # the output: its units are the classes
    return Group(
        name=root,
        kind="neuron" if isinstance(items[0].dep.target.module, nn.Linear) else "channel",
        units=units,
        members=tuple(members.values()),
        taps=tuple(Tap(producer, norms.get(producer, producer)) for producer in producers),
    )


def _why_not(module: nn.Module) -> str:
    """Return why a layer cannot be cut, or nothing."""
    if is_parametrized(module):
        return f"the weights of a {type(module).__name__} here are parametrized"
    if isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
        return "grouped convolution"
    if isinstance(module, _ConvNd | nn.Linear | _BatchNorm | nn.PReLU):
        return ""
    return f"{type(module).__name__} runs along these channels"


def _member(
    name: str, side: Side, indices: list[int], roots: list[int], units: int
) -> Member | None:
    """Write the traced indices as offset + unit · block, or return None where they are not."""
    if roots is None or len(indices) % units:
        return None
    block = len(indices) // units
    offset = int(indices[0])
    regular = all(
        int(index) == offset + position and int(root) == position // block
        for position, (index, root) in enumerate(zip(indices, roots, strict=True))
    )
    return Member(name, side, offset, block) if regular else None


def _following_norms(model: nn.Module, example: Tensor) -> dict[str, str]:
    """Return, for each layer whose output goes straight into a batch norm, that norm's name."""
    made: dict[int, tuple[str, Tensor]] = {}
    follows: dict[str, str] = {}

    def remember(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = (name, output)

    def meet(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs and id(inputs[0]) in made:
            follows[made[id(inputs[0])][0]] = name

    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, _ConvNd | nn.Linear):
                handles.append(
                    module.register_forward_hook(lambda _m, _i, out, name=name: remember(name, out))
                )
            elif isinstance(module, _BatchNorm):
                handles.append(
                    module.register_forward_pre_hook(lambda _m, args, name=name: meet(name, args))
                )
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return follows


# -- networks with attention: the hidden neurons of their MLPs ----------------------------------

_ELEMENTWISE = frozenset(
    "gelu relu silu elu leaky_relu tanh sigmoid hardswish hardsigmoid relu6 mish dropout "
    "contiguous identity softplus selu celu quick_gelu".split()
)
_PRODUCTS = frozenset("matmul __matmul__ bmm baddbmm einsum".split())
_PRODUCTS = frozenset("matmul __matmul__ bmm baddbmm einsum".split())
_RESHAPES = frozenset("view reshape flatten transpose permute squeeze unsqueeze to type".split())
_QUESTIONS = frozenset("__get__ size dim numel stride is_floating_point".split())


class _Pairs(TorchFunctionMode):
    """Follow each linear layer's output through element-wise functions to its only reader."""

    def __init__(self, weights: dict[int, str]):
        super().__init__()
        self.weights = weights
        self.attention = False
        self.pairs: dict[str, str] = {}
        self.spoilt: set[str] = set()
        self._made: dict[int, tuple[str, Tensor]] = {}
        self._shares: dict[int, Tensor] = {}  # kept, so that no id is given twice

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        result = func(*args, **kwargs)
        if name in _QUESTIONS:
            return result
        if name in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            self.attention = True
        # A softmax may also end a network; one that weighs other activations attends.
        if any(id(value) in self._shares for value in args):
            self.attention = self.attention or name in _PRODUCTS
            carried = name in _ELEMENTWISE or name in _RESHAPES
        else:
            carried = name == "softmax"
        if carried and isinstance(result, Tensor):
            self._shares[id(result)] = result
        sources = [self._made[id(v)][0] for v in (*args, *kwargs.values()) if id(v) in self._made]
        layer = self.weights.get(id(args[1])) if name == "linear" and len(args) > 1 else None
        for source in sources:
            if layer is not None and source not in self.pairs:
                self.pairs[source] = layer
            elif name.rstrip("_") not in _ELEMENTWISE:
                self.spoilt.add(source)
        if layer is not None and isinstance(result, Tensor) and result.requires_grad:
            self._made[id(result)] = (layer, result)
        elif sources and name.rstrip("_") in _ELEMENTWISE and isinstance(result, Tensor):
            self._made[id(result)] = (sources[0], result)
        return result


@register_adapter
def attention_networks(model: nn.Module, example: Tensor) -> Grouping | None:
    """Group the hidden neurons of every MLP; the residual stream and the heads stay."""
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    watch = _Pairs({id(module.weight): name for name, module in linears.items()})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    image = example.clone().requires_grad_()
    with torch.enable_grad(), watch:  # the fused inference path would hide the layers
        model(image)
    if not watch.attention:
        return None
    groups = []
    readers = list(watch.pairs.values())
    for first, second in watch.pairs.items():
        if first in watch.spoilt or readers.count(second) > 1:
            continue
        members = (Member(first, "out"), Member(second, "in"))
        groups.append(
            Group(first, "neuron", linears[first].out_features, members, (Tap(first, first),))
        )
    cut = {name for group in groups for name in (m.module for m in group.members)}
    left = [
        LeftAlone(name, linear.out_features, "not an MLP's hidden layer")
        for name, linear in linears.items()
        if name not in cut
    ]
    left += [
        LeftAlone(name, module.out_channels, "convolutions beside attention are left alone")
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd)
    ]
    return Grouping(tuple(groups), tuple(left))
