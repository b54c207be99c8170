"""Opened attention gives what the library's own does, before and after heads are cut."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.swin_unetr import WindowAttention as MonaiWindows
from timm.layers.attention import Attention
from timm.models.swin_transformer import WindowAttention as TimmWindows
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models.swin_transformer import (
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
)

from debride.models.attention import Heads, Opened, heads_of, is_attention, opened
from debride.planning.coupling import head_groups
from debride.surgery.masks import mask
from debride.surgery.removal import narrow
from planning import toys


def _tokens(module: nn.Module, *extra: Tensor | None) -> Tensor:
    x = torch.randn(6, 9, 12, generator=torch.Generator().manual_seed(0)).double()
    return module(x, *extra)


def _flat(module: nn.Module) -> Tensor:
    return _tokens(module, None)


def _map(module: nn.Module) -> Tensor:
    x = torch.randn(2, 7, 10, 12, generator=torch.Generator().manual_seed(0)).double()
    return module(x)


def _apart() -> Tensor:
    mask = torch.zeros(3, 9, 9).double()
    mask[1, :4, 4:] = mask[1, 4:, :4] = -100.0
    return mask


def _multihead(module: nn.Module, **given: Tensor) -> Tensor:
    x = torch.randn(6, 9, 12, generator=torch.Generator().manual_seed(0)).double()
    return module(x, x.roll(1, 0), x + 1, need_weights=False, **given)[0]


PADDING = torch.arange(9).expand(6, 9) > torch.arange(4, 10)[:, None]
CAUSAL = torch.ones(9, 9).triu(1).bool()
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "torch": (lambda: nn.MultiheadAttention(12, 3, batch_first=True), _multihead),
    "torch, no bias": (lambda: nn.MultiheadAttention(12, 3, False, batch_first=True), _multihead),
    "torch, padded": (
        lambda: nn.MultiheadAttention(12, 3, batch_first=True),
        lambda module: _multihead(module, key_padding_mask=PADDING),
    ),
    "torch, causal": (
        lambda: nn.MultiheadAttention(12, 3, batch_first=True),
        lambda module: _multihead(module, attn_mask=CAUSAL, key_padding_mask=PADDING),
    ),
    "torch, a mask a head": (
        lambda: nn.MultiheadAttention(12, 3, batch_first=True),
        lambda module: _multihead(module, attn_mask=torch.eye(9).double().expand(18, 9, 9)),
    ),
    "timm": (lambda: Attention(12, 3, qkv_bias=True), _tokens),
    "timm, normalised": (
        lambda: Attention(12, 3, qk_norm=True, norm_layer=nn.LayerNorm),
        _tokens,
    ),
    "MONAI": (lambda: SABlock(12, 3, qkv_bias=True), _tokens),
    "timm windows": (
        lambda: TimmWindows(12, 3, window_size=3),
        lambda module: _tokens(module, _apart()),
    ),
    "MONAI windows": (
        lambda: MonaiWindows(12, 3, window_size=(3, 3)),
        lambda module: _tokens(module, _apart()),
    ),
    "torchvision windows": (lambda: ShiftedWindowAttention(12, [3, 4], [1, 2], 3), _map),
    "torchvision windows V2": (lambda: ShiftedWindowAttentionV2(12, [3, 4], [1, 0], 3), _map),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_opened_attention_is_the_same_attention(name: str) -> None:
    make, run = FAMILIES[name]
    module = toys.randomise(make()).double()
    expected = run(module)
    before = dict(vars(module))
    with opened(module):
        assert isinstance(module, Opened)
        found = run(module)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert type(module) is type(make())
    assert vars(module).keys() == before.keys()


@pytest.mark.parametrize(
    ("make", "run"),
    [
        (lambda: nn.MultiheadAttention(12, 3, dropout=0.5, batch_first=True), _multihead),
        (lambda: Attention(12, 3, attn_drop=0.5), _tokens),
        (lambda: SABlock(12, 3, dropout_rate=0.5), _tokens),
        (lambda: TimmWindows(12, 3, window_size=3, attn_drop=0.5), _tokens),
        (lambda: MonaiWindows(12, 3, window_size=(3, 3), attn_drop=0.5), _flat),
        (lambda: ShiftedWindowAttention(12, [3, 4], [1, 2], 3, attention_dropout=0.5), _map),
        (lambda: ShiftedWindowAttentionV2(12, [3, 4], [1, 0], 3, attention_dropout=0.5), _map),
    ],
)
def test_opened_attention_drops_as_it_did(
    make: Callable[[], nn.Module], run: Callable[[nn.Module], Tensor]
) -> None:
    module = toys.randomise(make()).double()
    torch.manual_seed(0)
    with opened(module), torch.no_grad():
        whole = run(module.eval())
        found = torch.stack([run(module.train()) for _ in range(600)])
    assert found.std(0).min() > 0
    off = (found.mean(0) - whole).abs() / (found.std(0) / 600**0.5)
    assert off.mean() < 1.2  # of a mean of so many draws: 0.8 on the mean


@pytest.mark.parametrize(("heads", "dims"), [((0, 1), (1, 3)), ((1,), (0, 1, 2, 3)), ((0,), (2,))])
@pytest.mark.parametrize("family", ["torch", "timm", "MONAI", "torchvision windows V2"])
def test_heads_and_dimensions_may_go_apart(
    family: str, heads: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    make, run = FAMILIES[family]
    module = toys.randomise(make()).double()
    found = heads_of(module)
    assert isinstance(found, Heads)
    assert (found.count, found.size) == (3, 4)
    whole, parts = head_groups("attend", found)
    planned = [whole.planned(heads), parts.planned(dims)]
    net = nn.ModuleDict({"attend": module})
    cut, masked = copy.deepcopy(net), copy.deepcopy(net)
    narrow(cut, planned)
    mask(masked, planned)
    torch.testing.assert_close(run(cut["attend"]), run(masked["attend"]), rtol=1e-10, atol=1e-10)
    assert (run(masked["attend"]) - run(module)).abs().max() > 1e-3


def _huggingface(kind: str, size: int) -> tuple[nn.Module, Tensor]:
    hf = pytest.importorskip("transformers", reason="the optional library transformers")
    config = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
              "intermediate_size": 24, "patch_size": 4, "image_size": size}  # fmt: skip
    if kind == "Swin":
        config = {"embed_dim": 12, "depths": [2, 2], "num_heads": [3, 6], "window_size": 3,
                  "patch_size": 4, "image_size": size}  # fmt: skip
    torch.manual_seed(0)
    model = getattr(hf, f"{kind}ForImageClassification")(getattr(hf, f"{kind}Config")(**config))
    return toys.randomise(model).double(), torch.randn(2, 3, size, size).double()


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Swin"])
def test_hugging_face_opened_is_the_same(kind: str) -> None:
    model, images = _huggingface(kind, 32)
    expected = model(images).logits
    with opened(model):
        assert sum(isinstance(module, Opened) for module in model.modules()) >= 2
        found = model(images).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def _with_other_projection(projection: nn.Module) -> nn.Module:
    module = Attention(12, 3)
    module.qkv = projection
    return module


def test_tokens_come_first_where_torch_says_so() -> None:
    module = nn.MultiheadAttention(12, 3).eval()
    x = torch.randn(5, 2, 12)
    for given in (x, x[:, 0]):
        expected = module(given, given, given)[0]
        with opened(module):
            torch.testing.assert_close(module(given, given, given)[0], expected)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.MultiheadAttention(12, 3, kdim=5), "different widths"),
        (nn.MultiheadAttention(12, 3, add_bias_kv=True), "added token"),
        (Attention(12, 3, scale_norm=True, norm_layer=nn.LayerNorm), "normalised together"),
        (SABlock(12, 3, use_combined_linear=False), "joint projection"),
        (SABlock(12, 3, causal=True, sequence_length=9), "causal"),
        (_with_other_projection(nn.Sequential(nn.Linear(12, 36))), "no plain linear"),
        (_with_other_projection(parametrizations.weight_norm(nn.Linear(12, 36))), "no plain"),
    ],
)
def test_what_cannot_lose_heads_says_why(module: nn.Module, reason: str) -> None:
    found = heads_of(module)
    assert isinstance(found, str)
    assert reason in found


def test_normalised_queries_keep_their_dimensions() -> None:
    found = heads_of(Attention(12, 3, qk_norm=True, norm_layer=nn.LayerNorm))
    assert isinstance(found, Heads)
    assert found.whole


def test_classes_made_from_known_ones_are_not_known() -> None:
    class Mine(nn.MultiheadAttention):
        pass

    assert not is_attention(Mine(12, 3))
