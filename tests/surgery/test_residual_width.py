"""The width of residual streams, cut on request: masked equals removed, and plans say it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from monai.networks import nets
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

import debride
from debride.errors import DebrideError
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.make import check_members, finish
from debride.planning.plan import Member, Plan
from debride.planning.trial import explained_part
from debride.surgery import apply
from planning import toys
from planning.test_groups import Attention


def _vit() -> nn.Module:
    return VisionTransformer(32, 8, 2, 4, hidden_dim=32, mlp_dim=48, num_classes=3)


def _swin(**options: object) -> nn.Module:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=3, **options)


def _convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=3)


STREAMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[str, int]]]] = {
    "multihead": (Attention, (1, 8, 8), [("patch", 8)]),
    "torchvision_vit": (_vit, (3, 32, 32), [("conv_proj", 32)]),
    "torchvision_swin": (
        _swin, (3, 36, 32), [("features.0.0", 16), ("features.2.reduction", 32)],
    ),
    "torchvision_swin_v2": (
        lambda: _swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        (3, 36, 32), [("features.0.0", 16), ("features.2.reduction", 32)],
    ),
    "torchvision_convnext": (
        _convnext, (3, 32, 32), [("features.0.0", 16), ("features.2.1", 32)],
    ),
    "timm_vit_tiny": (
        lambda: timm.create_model(
            "vit_tiny_patch16_224", img_size=64, num_classes=3, depth=2, reg_tokens=2
        ),
        (3, 64, 64), [("patch_embed.proj", 192)],
    ),
    "timm_swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=56, num_classes=3, depths=(2, 2),
            num_heads=(2, 4), embed_dim=16,
        ),
        (3, 56, 56), [("patch_embed.proj", 16), ("layers.1.downsample.reduction", 32)],
    ),
    "monai_unetr": (
        lambda: nets.UNETR(
            1, 2, (32, 32), feature_size=4, hidden_size=16, mlp_dim=24, num_heads=4, spatial_dims=2
        ),
        (1, 32, 32), [("vit.patch_embedding.patch_embeddings", 16)],
    ),
}  # fmt: skip


def _output(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return explained_part(model(images))


def _stored(model: nn.Module) -> int:
    return len(safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()}))


def _made(name: str) -> tuple[nn.Module, Tensor]:
    make, shape, _ = STREAMS[name]
    torch.manual_seed(0)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return toys.randomise(make()), images


def _planned(model: nn.Module, images: Tensor) -> Plan:
    groups = find_groups(model, images, residual_width=True).groups
    return finish(model, toys.random_widths(groups), images, {})


@pytest.mark.parametrize("name", STREAMS)
def test_removed_equals_masked_at_the_predicted_cost(name: str) -> None:
    model, images = _made(name)
    usual = {group.members for group in find_groups(model, images).groups}
    found = find_groups(model, images, residual_width=True).groups
    streams = [group for group in found if group.members not in usual]
    assert [(group.name, group.units) for group in streams] == STREAMS[name][2]
    assert len(found) == len(usual) + len(streams), "nothing else is cut otherwise"

    plan = _planned(model, images)
    removed, masked = apply(model, plan), apply(model, plan, masks=True)
    before, expected, small = (_output(m, images) for m in (model, masked, removed))
    assert (small - expected).abs().max() <= 1e-5
    assert (expected - before).abs().max() > 1e-3, "the cut must show for the test to mean anything"
    assert measure(removed, images) == plan.after
    assert measure(model, images) == plan.before

    images = images.double()
    expected, small = (_output(m.double(), images) for m in (masked, removed))
    assert (small - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("name", ["torchvision_vit", "torchvision_swin", "torchvision_convnext"])
def test_it_is_left_alone_unless_asked_for(name: str) -> None:
    model, images = _made(name)
    left = find_groups(model, images).left_alone
    assert {entry.name for entry in left} >= {group for group, _ in STREAMS[name][2]}
    assert all("on request alone (--residual-width)" in entry.reason for entry in left)


@pytest.mark.parametrize("budget", ["macs", "params", "bytes", "ratio"])
def test_budgets_are_met(budget: str) -> None:
    model, images = _made("torchvision_vit")
    scores = debride.score(model, [images], criterion="random", residual_width=True)
    plan = debride.plan(model, scores, images, residual_width=True, **{budget: 0.3})
    stream = next(group for group in plan.groups if group.name == "conv_proj")
    assert len(stream.keep) < stream.units
    kept = {"macs": plan.macs_kept, "params": plan.params_kept, "ratio": 1 - plan.units_kept,
            "bytes": _stored(apply(model, plan)) / _stored(model)}[budget]  # fmt: skip
    assert kept == pytest.approx(0.3, abs=0.01)
    assert plan.made_by["residual_width"] is True


@pytest.mark.parametrize("name", ["multihead", "torchvision_vit", "torchvision_swin"])
def test_pruned_in_steps_and_read_back(name: str, tmp_path: Path) -> None:
    model, images = _made(name)
    data = [(images, torch.tensor([0, 1]))]
    pruned = debride.prune(
        model, data, data, macs=0.4, steps=2, residual_width=True, recovery="least_squares",
        evidence=False,
    )  # fmt: skip
    assert pruned.plan.macs_kept == pytest.approx(0.4, abs=0.01)
    assert pruned.settings["residual_width"] is True
    pruned.save(tmp_path / "small")
    loaded = debride.load(tmp_path / "small", model)
    assert torch.equal(_output(loaded, images), _output(pruned.model.eval(), images))
    assert Plan.from_json(pruned.plan.to_json()) == pruned.plan


def test_tokens_and_positions_keep_their_values_and_the_network_states_its_width() -> None:
    model, images = _made("torchvision_vit")
    assert isinstance(model, VisionTransformer)
    stream = find_groups(model, images, residual_width=True).groups[0]
    keep = [0, 3, 4, 17]
    small = apply(model, finish(model, [stream.planned(keep)], images, {}))
    assert isinstance(small, VisionTransformer)
    assert torch.equal(small.class_token, model.class_token[..., keep])
    assert torch.equal(small.encoder.pos_embedding, model.encoder.pos_embedding[..., keep])
    assert torch.equal(small.heads.head.weight, model.heads.head.weight[:, keep])
    assert (small.hidden_dim, model.hidden_dim) == (4, 32)
    assert small.encoder.pos_embedding.requires_grad
    assert Member("encoder.pos_embedding", "axis2") in stream.members
    assert Member("", "stated") in stream.members


def test_a_stream_that_the_network_gives_out_is_kept_and_listed() -> None:
    model = nets.ViT(
        1, (32, 32), (8, 8), hidden_size=16, mlp_dim=24, num_layers=2, num_heads=4,
        classification=True, num_classes=3, spatial_dims=2,
    )  # fmt: skip
    found = find_groups(model.eval(), torch.zeros(1, 1, 32, 32), residual_width=True)
    assert {left.reason for left in found.left_alone} == {"the network gives these channels out"}
    assert "patch_embedding.patch_embeddings" in {left.name for left in found.left_alone}


def test_a_plan_whose_stream_lacks_a_part_is_refused() -> None:
    model, images = _made("torchvision_vit")
    plan = _planned(model, images)
    check_members(model, plan, images)
    stream = next(group for group in plan.groups if group.name == "conv_proj")
    members = tuple(m for m in stream.members if m.module != "encoder.pos_embedding")
    damaged = replace(plan, groups=(replace(stream, members=members),))
    with pytest.raises(DebrideError, match=r"lacks 'encoder.pos_embedding' \(axis2\)"):
        check_members(model, damaged, images)


@pytest.mark.parametrize(
    "member",
    [
        Member("encoder.ln.weight", "axis0"),
        Member("encoder.pos_embedding", "axis4"),
        Member("heads.head", "axis0"),
        Member("encoder.ln", "stated"),
    ],
)
def test_a_member_that_is_no_bare_parameter_is_refused(member: Member) -> None:
    model, images = _made("torchvision_vit")
    plan = _planned(model, images)
    damaged = replace(plan.groups[0], members=(member,))
    with pytest.raises(DebrideError, match=r"does not have|has no side"):
        apply(model, replace(plan, groups=(damaged,)))
