"""Small networks with everything that makes a relevance pass hard."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm statistics and weights that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


class Residual(nn.Module):
    """In-place residual sum, in-place ReLU, strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.short = nn.Conv2d(3, 8, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.short(x)
        out = self.relu(out)
        return self.fc(out.mean((2, 3)))


class SilentInPlace(nn.Module):
    """In-place calls whose result nobody takes: only the tensor itself is used afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.skip = nn.Conv2d(3, 6, 1)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        out = self.conv(x)
        torch.relu_(out)
        out.add_(self.skip(x))
        out[:, 0] = 0.5
        out.mul_(2)
        return self.fc(out.flatten(2).mean(2))


class Squeeze(nn.Module):
    """Squeeze-and-excitation with a sigmoid gate, and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8)[:, None, None])
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.nn.functional.silu(self.conv(x))
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        x = x * gate[:, :, None, None] * self.scale
        return self.fc(x.amax((2, 3)))


class Transformer(nn.Module):
    """Class token, positions, `nn.MultiheadAttention` or plain products, GELU MLP."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(torch.randn(1, 5, 12))
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True) if fused else None
        self.qkv, self.project = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Dropout(), nn.Linear(24, 12))
        self.head = nn.Linear(12, 4)

    def attend(self, x):
        if self.attention is not None:
            return self.attention(x, x, x, need_weights=False)[0]
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, 12))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])
