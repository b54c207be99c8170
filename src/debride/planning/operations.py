"""What each torch function does to the units that pass through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from debride.models.stated import stated_width
from debride.planning.labels import varying
from debride.planning.layers import is_depthwise
from debride.planning.tracing import ON_REQUEST, Trace, operation, tensors_in

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

# -- layers ------------------------------------------------------------------------------------


def _input(args: Args, kwargs: Kwargs) -> Tensor:
    return args[0] if args else kwargs["input"]  # type: ignore[no-any-return]


@operation(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "linear",
)  # fmt: skip
def layer(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Tensor) -> None:
    """A convolution or linear layer: reads units, and its outputs are new ones."""
    x = _input(args, kwargs)
    name = trace.owner(args[1] if len(args) > 1 else kwargs["weight"])
    module = None if name is None else trace.modules[name]
    if name is None or not isinstance(module, _ConvNd | nn.Linear):
        name, module = trace.place
        what = type(module).__name__
        way = "parametrized" if hasattr(module, "parametrizations") else "computed on the way"
        reason = f"the weights of a {what} here are {way}"
        trace.leave(x, reason)
        if isinstance(module, _ConvNd | nn.Linear):
            trace.units.leave(trace.produce(name, result.shape[_channel_dim(module)]), reason)
            _give(trace, result, trace.sides[name, "out"], _channel_dim(module))
        return
    dim = _channel_dim(module)
    read = trace.along(x, dim)
    if is_depthwise(module):
        trace.stand(name, "out", read)
        _give(trace, result, read, dim)
        return
    trace.stand(name, "in", read)
    made = trace.produce(name, result.shape[dim])
    if isinstance(module, _ConvNd) and module.groups > 1:
        # Whole groups go: all that a group reads and all that it makes is one unit.
        blocks = torch.cat([read.view(module.groups, -1), made.view(module.groups, -1)], 1)
        trace.units.unite(blocks[:, :1], blocks, "a grouped convolution reads what is left alone")
    _give(trace, result, made, dim)
    trace.made_by[result] = name


def _channel_dim(module: nn.Module) -> int:
    return -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1


def _give(trace: Trace, result: Tensor, labels: Tensor, dim: int) -> None:
    shape = [1] * result.ndim
    shape[dim] = len(labels)
    trace.label(result, labels.view(shape))


@operation("batch_norm", "instance_norm", "prelu")
def channelwise(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Tensor) -> None:
    """A layer with numbers for each channel."""
    x = _input(args, kwargs)
    name, module = trace.place
    if not isinstance(module, _BatchNorm | _InstanceNorm | nn.PReLU):
        trace.leave(x, f"{func.__name__} outside of a layer of its own")
        return
    if not isinstance(module, nn.PReLU) or module.num_parameters > 1:
        trace.stand(name, "out", trace.along(x, 1))
    trace.label(result, trace.labels(x))


@operation("group_norm")
def group_norm(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Tensor) -> None:
    """A group norm loses whole groups; one with a single group loses any channel."""
    x = _input(args, kwargs)
    name, module = trace.place
    if not isinstance(module, nn.GroupNorm):
        trace.leave(x, "group_norm outside of a layer of its own")
        return
    read = trace.along(x, 1)
    if module.num_groups > 1:
        blocks = read.view(module.num_groups, -1)
        trace.units.unite(blocks[:, :1], blocks, "a group norm joins them with what is left alone")
    trace.stand(name, "out", read)
    trace.label(result, trace.labels(x))


@operation("layer_norm", "rms_norm")
def layer_norm(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Tensor) -> None:
    """A norm over the last dimensions, of which any channel may go."""
    x = _input(args, kwargs)
    name, module = trace.place
    labels = trace.labels(x)
    over = len(args[1] if len(args) > 1 else kwargs["normalized_shape"])
    if labels is not None and any(size > 1 for size in labels.shape[-over:]):
        if over > 1 or not isinstance(module, nn.LayerNorm | nn.RMSNorm):
            trace.leave(x, f"{func.__name__} runs along these channels and others")
            return
        trace.stand(name, "out", trace.along(x, -1))
    elif over == 1 and isinstance(module, nn.LayerNorm | nn.RMSNorm):
        trace.stand(name, "out", torch.zeros(x.shape[-1], dtype=torch.long))
    trace.label(result, trace.labels(x))


BARE = "a bare parameter runs along these channels"


# -- element by element --------------------------------------------------------------------------


@operation(*"""
    add iadd radd sub isub rsub mul imul rmul multiply subtract div idiv truediv itruediv
    rtruediv rdiv true_divide divide pow ipow rpow maximum minimum where lerp addcmul addcdiv eq ne
    lt le gt ge masked_fill clamp clip clamp_min clamp_max neg positive abs invert logical_not
    relu relu6 leaky_relu rrelu elu selu celu gelu silu mish softplus softsign tanh tanhshrink
    hardtanh hardswish hardsigmoid hardshrink softshrink sigmoid logsigmoid threshold exp expm1
    log log1p log2 sqrt rsqrt square reciprocal sign erf sin cos floor ceil round nan_to_num
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout
    contiguous clone detach to type type_as float double half bfloat16 cpu cuda requires_grad
    isnan isinf alias
""".split())  # fmt: skip
def elementwise(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """Positions that meet go together; what weighs all channels alike is left alone."""
    ndim = result.ndim
    operands: list[tuple[Tensor, list[int], Tensor | None]] = []
    for tensor in tensors_in((args, tuple(kwargs.values()))):
        lead = [1] * (ndim - tensor.ndim)
        labels = trace.labels(tensor)
        if labels is not None:
            labels = labels.view([*lead, *labels.shape])
        operands.append((tensor, [*lead, *tensor.shape], labels))
    dims = {d for _, _, labels in operands if labels is not None for d in varying(labels)}
    found: Tensor | None = None
    for tensor, shape, labels in operands:
        if any(shape[d] == 1 for d in dims):
            trace.leave(tensor, "one channel weighs all others")
            continue
        if labels is None:
            if not dims or not len(operands) > 1:
                continue
            lead = ndim - tensor.ndim
            if len(dims) == 1 and (dim := min(dims)) >= lead:
                labels = trace.lay(tensor, dim - lead)
        if labels is None:
            labels = torch.zeros([1] * ndim, dtype=torch.long)
            asked = "" if trace.residual_width else f"; {ON_REQUEST}"
            reason = (BARE + asked) * trace.is_constant(tensor)
        else:
            labels = labels.view([*[1] * (ndim - labels.ndim), *labels.shape])
            reason = ""
        if found is None:
            found, why = labels, reason
            continue
        trace.units.unite(found, labels, reason or why)
        found = torch.maximum(found, labels)
    trace.label(result, found)


# -- over space, over dimensions -----------------------------------------------------------------


@operation(*"""
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d
    lp_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices interpolate upsample upsample_nearest upsample_bilinear pad
    grid_sample
""".split())  # fmt: skip
def spatial(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """What changes the size of dimensions other than that of the channels."""
    x = _input(args, kwargs)
    labels = trace.labels(x)
    if labels is None:
        return
    name = func.__name__.strip("_")
    if name == "pad":
        amounts = args[1] if len(args) > 1 else kwargs["pad"]
        touched = [
            x.ndim - 1 - i for i in range(len(amounts) // 2) if any(amounts[2 * i : 2 * i + 2])
        ]
    else:
        touched = list(range(2, x.ndim))
    if set(touched) & set(varying(labels)):
        trace.leave(x, f"{name} runs along these channels")
        return
    for tensor in tensors_in(result):
        trace.label(tensor, labels)


@operation(*"""
    mean sum amax amin max min std var var_mean std_mean norm logsumexp argmax argmin prod median
    all any nanmean count_nonzero
""".split())  # fmt: skip
def reduction(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """What takes one number from whole dimensions."""
    if sum(1 for _ in tensors_in((args, kwargs))) > 1:  # max of two tensors
        elementwise(trace, func, args, kwargs, result)
        return
    x = _input(args, kwargs)
    labels = trace.labels(x)
    if labels is None:
        return
    place = 2 if func.__name__ == "norm" else 1
    given = kwargs.get("dim", kwargs.get("axis", args[place] if len(args) > place else None))
    dims = range(x.ndim) if given is None else [given] if isinstance(given, int) else given
    dims = [dim % x.ndim for dim in dims]
    if set(dims) & set(varying(labels)):
        trace.leave(x, f"{func.__name__} runs along these channels")
        return
    for tensor in tensors_in(result):
        if tensor.ndim == x.ndim:
            trace.label(tensor, labels)
        elif tensor.ndim == x.ndim - len(dims):
            shape = [size for dim, size in enumerate(labels.shape) if dim not in dims]
            trace.label(tensor, labels.reshape(shape))
        else:
            trace.leave(x, f"{func.__name__} runs along these channels")


@operation("softmax", "log_softmax", "softmin", "normalize", "cumsum", "cumprod", "sort")
def along_one(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """What mixes the positions along one dimension."""
    x = _input(args, kwargs)
    labels = trace.labels(x)
    if labels is None:
        return
    name = func.__name__.strip("_")
    place = 2 if name == "normalize" else 1
    dim = kwargs.get("dim", args[place] if len(args) > place else 1 if name == "normalize" else -1)
    if not isinstance(dim, int) or labels.shape[dim] > 1:
        trace.leave(x, f"{name} mixes these channels")
        return
    for tensor in tensors_in(result):
        trace.label(tensor, labels)


# -- moved about ---------------------------------------------------------------------------------


@operation(*"""
    view reshape flatten unflatten ravel permute transpose swapaxes swapdims movedim moveaxis
    squeeze unsqueeze expand expand_as broadcast_to repeat tile repeat_interleave t adjoint narrow
    select getitem index_select take_along_dim chunk split tensor_split unsafe_chunk unsafe_split
    split_with_sizes unbind roll flip fliplr flipud rot90 view_as reshape_as get pixel_shuffle
    pixel_unshuffle channel_shuffle cat concat concatenate stack hstack vstack dstack
    atleast_1d atleast_2d atleast_3d diagonal unfold real
""".split())  # fmt: skip
def moved(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """What only moves values: done to the labels as well."""
    labelled = [tensor for tensor in tensors_in((args, kwargs)) if trace.labels(tensor) is not None]
    if not labelled:
        return
    _stated(trace, labelled[0])
    if func.__name__ in ("cat", "concat", "concatenate") and _joined(trace, args, kwargs, result):
        return
    whole = func.__name__.endswith(("cat", "concatenate", "stack"))
    if not whole and trace.labels(args[0] if args else None) is None:
        if not func.__name__.endswith("_as"):  # that asks for a shape only
            for tensor in labelled:
                trace.leave(tensor, f"{func.__name__} picks by these channels")
        return

    def labels_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            labels = trace.labels(value)
            if labels is None:
                return torch.zeros(value.shape, dtype=torch.long) if whole else value
            return labels.expand(value.shape)
        if isinstance(value, tuple | list):
            return type(value)(labels_of(each) for each in value)
        return value

    try:
        found = func(*labels_of(args), **{key: labels_of(value) for key, value in kwargs.items()})
    except Exception:  # a function that does not move whole numbers
        for tensor in labelled:
            trace.leave(tensor, f"{func.__name__} mixes these channels")
        return
    for tensor, labels in zip(tensors_in(result), tensors_in(found), strict=True):
        trace.label(tensor, labels)


def _stated(trace: Trace, x: Tensor) -> None:
    """Note that the running module moves these channels by a width that it states."""
    name, module = trace.place
    labels = trace.labels(x)
    if labels is not None and (stated := stated_width(module)) is not None:
        dims = varying(labels)
        if len(dims) == 1 and labels.shape[dims[0]] == stated:
            trace.stand(name, "stated", labels.flatten())


def _joined(trace: Trace, args: Args, kwargs: Kwargs, result: Tensor) -> bool:
    """Join maps along the channels without making labels as large as the maps."""
    parts = list(tensors_in(args[0] if args else kwargs.get("tensors", ())))
    given: Any = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    dim = int(given) % result.ndim
    labels = [trace.labels(part) for part in parts]
    if trace.residual_width and (shared := _side_by_side(trace, parts, dim)) is not None:
        trace.label(result, shared)
        return True
    if any(each is not None and set(varying(each)) - {dim} for each in labels):
        return False
    found = []
    for part, each in zip(parts, labels, strict=True):
        shape = [1] * result.ndim
        shape[dim] = part.shape[dim]
        none = torch.zeros(shape, dtype=torch.long)
        found.append(none if each is None else each.expand(shape))
    trace.label(result, torch.cat(found, dim))
    return True


def _side_by_side(trace: Trace, parts: list[Tensor], dim: int) -> Tensor | None:
    """Return the labels of tokens joined along another dimension than that of their channels."""
    dims = {d for part in parts if (each := trace.labels(part)) is not None for d in varying(each)}
    if len(dims) != 1 or dim in dims:
        return None
    found: list[Tensor] = []
    for part in parts:
        bare = part if part._base is None else part._base  # tokens are expanded to the batch
        labels = trace.labels(part)
        if labels is None and bare.ndim == part.ndim:
            labels = trace.lay(bare, min(dims))
        if labels is None:
            return None
        found.append(labels)
    for labels in found:  # layers read the channels of all tokens alike
        trace.units.unite(found[0], labels)
    return found[0]


@operation(*"""
    zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full
    new_empty new_tensor arange linspace meshgrid
""".split())  # fmt: skip
def made(trace: Trace, func: Any, args: Args, kwargs: Kwargs, result: Any) -> None:
    """A new tensor that takes no more than its form from another."""
