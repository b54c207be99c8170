"""Small networks, each with one thing that makes cutting hard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from debride.planning.plan import Group, PlannedGroup


class Tail(nn.Module):
    """Two convolutions with something between them, pooling and a linear head."""

    def __init__(self, between: nn.Module, *, width: int = 8, after: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(after or width, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.between(self.first(x))).relu()
        return self.head(hidden.mean((2, 3)))


class Volume(nn.Module):
    """A 3-D network with a residual sum and PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.act = nn.PReLU(6)
        self.inner = nn.Conv3d(6, 6, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm3d(6)
        self.out = nn.Conv3d(6, 5, 3, stride=2)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = (x + self.inner_norm(self.inner(x))).relu()
        return self.head(self.out(x).relu().mean((2, 3, 4)))


class SmallUNet(nn.Module):
    """Down, up by a transposed convolution, and a concatenation; then classes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 6, 3, padding=1)
        self.down_norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 7, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(7)
        self.join = nn.Conv2d(13, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down_norm(self.down(x)).relu()
        low = self.up_norm(self.up(self.deep(high).relu())).relu()
        return self.head(self.join(torch.cat([low, high], 1)).relu().mean((2, 3)))


class Flat(nn.Module):
    """A flattened map before the linear layers: each channel is 16 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6 * 16, 10)
        self.hidden_norm = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.head(self.hidden_norm(self.hidden(torch.flatten(x, 1))).relu())


class SqueezeExcite(nn.Module):
    """A gate computed from the pooled channels, over a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.depthwise_norm = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 3, 1)
        self.excite = nn.Conv2d(3, 8, 1)
        self.project = nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.wide(x)))
        x = F.hardswish(self.depthwise_norm(self.depthwise(x)))
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(self.project(x * gate).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all before it, through a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(5), nn.BatchNorm2d(9), nn.BatchNorm2d(13)])
        self.convs = nn.ModuleList([nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(9, 4, 3, padding=1)])
        self.head = nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(norm(x).relu())], 1)
        return self.head(self.norms[2](x).relu().mean((2, 3)))


class TupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Flat()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), x.mean()


class DictOutput(TupleOutput):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": self.body(x)}


class SharedLayer(nn.Module):
    """One convolution called twice: its input width is its output width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.first(x)).relu()).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


class TiedWeights(nn.Module):
    """Two convolutions with one weight tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.two.weight = self.one.weight
        self.last = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.first(x)).relu()).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


class Mixing(nn.Module):
    """Something that mixes channels without being a layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "scale":
            self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "softmax":
            return x.softmax(1)
        if self.kind == "normalize":
            return F.normalize(x, dim=1)
        if self.kind == "centre":
            return x - x.mean(1, keepdim=True)
        if self.kind == "layer_norm":
            return F.layer_norm(x, x.shape[1:])
        if self.kind == "roll":
            return x.roll(1, 1)
        if self.kind == "view":
            return x.view(x.shape[0], 8, *x.shape[2:]).relu()
        if self.kind == "matmul":
            flat = x.flatten(2)
            return torch.matmul(flat @ flat.transpose(1, 2), flat).view_as(x)
        if self.kind == "scale":
            return x * self.scale
        if self.kind == "one for all":
            return x[:, :1] * x
        raise ValueError(self.kind)


class ChannelsLast(nn.Module):
    """A layer over the last dimension, on maps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


class Gated(nn.Module):
    """One convolution makes values and their gates; another layer reads their product."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(1, 12, 3, padding=1)
        self.last = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=1)
        return self.head(self.last(value * gate.sigmoid()).relu().mean((2, 3)))


class Features(nn.Module):
    """Gives out its features beside the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(x)
        return self.head(self.last(features.relu()).relu().mean((2, 3))), features


def parametrized() -> nn.Module:
    net = Tail(nn.ReLU())
    parametrizations.weight_norm(net.first)
    return net


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms random statistics, and layer scales and zero heads a size that shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-4:
                parameter.normal_(0, 0.1, generator=generator)
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
            if isinstance(module, _BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return model.eval()


def random_widths(groups: Sequence[Group], seed: int = 0) -> tuple[PlannedGroup, ...]:
    """Keep a random set of a random size in every group."""
    generator = torch.Generator().manual_seed(seed)
    planned = []
    for group in groups:
        kept = int(torch.randint(max(1, group.units // 4), group.units, (), generator=generator))
        order = torch.randperm(group.units, generator=generator)
        planned.append(group.planned(order[:kept].tolist()))
    return tuple(planned)
