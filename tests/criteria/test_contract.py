"""What holds for every criterion: names, options, shards, and a network that is left alone."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from debride import score
from debride.criteria import criterion_names
from debride.errors import DebrideError
from debride.settings import PruneSettings
from planning import toys

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, 1, 8, 8, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
WEIGHTS = ("magnitude", "magnitude_l1", "bn_scale", "fpgm", "random")
DATA = ("lrp", "dlb", "dlb_contrastive", "ig", "taylor", "hessian", "activation", "apoz")


def test_every_criterion_is_here() -> None:
    assert {*WEIGHTS, *DATA} <= set(criterion_names())


def test_help_and_page_name_every_criterion() -> None:
    described = PruneSettings.model_fields["criterion"].description
    page = (Path(__file__).parents[2] / "docs/criteria.md").read_text(encoding="utf-8")
    for name in (*DATA, *WEIGHTS):
        assert f" {name}" in f" {described}"
        assert page.count(f"| `{name}` |") == 2  # what it is, what it costs


def test_an_unknown_criterion_is_named() -> None:
    with pytest.raises(DebrideError, match="no criterion 'magnitud': did you mean 'magnitude'"):
        score(toys.Flat(), [IMAGES], criterion="magnitud")
    with pytest.raises(DebrideError, match="did you mean 'dlb_contrastive'"):
        score(toys.Flat(), [IMAGES], criterion="dlb-contrastiv")


def test_hyphens_are_underscores() -> None:
    model = toys.randomise(toys.Flat())
    with_hyphen = score(model, [(IMAGES, LABELS)], criterion="dlb-contrastive")
    plain = score(model, [(IMAGES, LABELS)], criterion="dlb_contrastive")
    assert with_hyphen.criterion == plain.criterion == "dlb_contrastive:abs"
    assert all(torch.equal(with_hyphen.values[n], plain.values[n]) for n in plain.values)


def test_options_that_a_criterion_lacks_are_refused() -> None:
    for criterion, option, said in (
        ("ig", {"steps": 3}, "'ig' has no option 'steps': did you mean 'n_steps'"),
        ("magnitude", {"aggregate": "abs"}, "no option 'aggregate': known: none"),
        (
            "lrp",
            {"aggregate": "sum"},
            "aggregate='sum': give one of abs, positive, signed, square, spread",
        ),
        ("hessian", {"probes": 0}, "probes=0: give 1 or more"),
    ):
        with pytest.raises(DebrideError, match=said):
            score(toys.Flat(), [IMAGES], criterion=criterion, **option)


@pytest.mark.parametrize("criterion", [*DATA, *WEIGHTS])
def test_the_network_comes_back_as_it_was(criterion: str) -> None:
    model = toys.randomise(toys.Flat()).train()
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    score(model, [(IMAGES, LABELS)], criterion=criterion)
    assert torch.equal(torch.get_rng_state(), state)
    assert [n for n, m in model.named_modules() if not m.training] == ["norm"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("criterion", DATA)
def test_shards_add_up(criterion: str) -> None:
    model = toys.randomise(toys.Flat()).double()
    images = IMAGES.double()

    def found(*batches: Any) -> Any:
        return score(model, list(batches), criterion=criterion)

    whole = found((images, LABELS))
    parts = found((images[:2], LABELS[:2])) + found((images[2:], LABELS[2:]))
    singly = found(*zip(images.split(1), LABELS.split(1), strict=True))
    assert whole.count == parts.count == singly.count == 6
    for name, value in whole.values.items():
        assert value.dtype == torch.float64
        assert float(value.abs().sum()) > 0
        size = float(value.abs().max())
        assert torch.allclose(parts.values[name], value, rtol=1e-12, atol=1e-12 * size)
        assert torch.allclose(singly.values[name], value, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("criterion", ["lrp", "dlb", "dlb_contrastive", "ig", "taylor"])
def test_scores_of_other_aggregates_do_not_add_up(criterion: str) -> None:
    model = toys.randomise(toys.Flat())
    one, other = (
        score(model, [(IMAGES, LABELS)], criterion=criterion, aggregate=aggregate)
        for aggregate in ("abs", "square")
    )
    with pytest.raises(DebrideError, match="only scores of the same criterion"):
        one + other


@pytest.mark.parametrize("criterion", DATA)
def test_without_labels_the_predicted_class_stands_in(criterion: str) -> None:
    model = toys.randomise(toys.Flat())
    with torch.no_grad():  # no class wins everywhere
        model.head.bias -= model(IMAGES).mean(0)
    predicted = model(IMAGES).argmax(1)
    assert len(predicted.unique()) > 1
    without = score(model, [IMAGES], criterion=criterion).values
    with_them = score(model, [(IMAGES, predicted)], criterion=criterion).values
    assert all(torch.equal(without[name], with_them[name]) for name in without)


@pytest.mark.parametrize("criterion", DATA)
def test_one_column_of_labels_is_classes(criterion: str) -> None:
    model = toys.randomise(toys.Flat())
    plain = score(model, [(IMAGES, LABELS)], criterion=criterion).values
    column = score(model, [(IMAGES, LABELS[:, None])], criterion=criterion).values
    assert all(torch.equal(plain[name], column[name]) for name in plain)


@pytest.mark.parametrize("criterion", [*DATA, *WEIGHTS])
def test_no_images_are_refused(criterion: str) -> None:
    with pytest.raises(DebrideError, match="reference data are empty"):
        score(toys.Flat(), [], criterion=criterion)


@pytest.mark.parametrize("criterion", ["lrp", "dlb_contrastive", "ig", "taylor", "hessian"])
def test_a_label_beyond_the_outputs_is_refused(criterion: str) -> None:
    with pytest.raises(DebrideError, match="targets must lie between 0 and 2"):
        score(toys.randomise(toys.Flat()), [(IMAGES, LABELS + 1)], criterion=criterion)


@pytest.mark.parametrize("criterion", ["lrp", "ig", "taylor", "hessian", "activation"])
def test_nothing_of_a_pass_stays_in_memory(criterion: str) -> None:
    seen: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y: Any = x * 2
            seen.append(weakref.ref(y))
            return y

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), Watched(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1)
    )
    score(model, [(IMAGES, LABELS)] * 3, criterion=criterion)
    gc.collect()
    assert len(seen) >= 3
    assert [ref() for ref in seen if ref() is not None] == []


RESNET = ("torchvision:resnet18", 32)
VIT = ("timm:vit_tiny_patch16_224", 32)


@pytest.mark.parametrize("criterion", [*DATA, *WEIGHTS])
@pytest.mark.parametrize(("name", "side"), [RESNET, VIT])
def test_common_networks(
    name: str, side: int, criterion: str, common: dict[str, tuple[nn.Module, Any]]
) -> None:
    model, groups = common[name]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    if criterion == "bn_scale" and name == VIT[0]:
        with pytest.raises(DebrideError, match="take 'magnitude'"):
            score(model, [(images, torch.tensor([0, 1]))], criterion=criterion, groups=groups)
        return
    small = {"ig": {"n_steps": 2}, "hessian": {"probes": 1}}.get(criterion, {})
    found = score(
        model, [(images, torch.tensor([0, 1]))], criterion=criterion, groups=groups, **small
    )
    assert found.values.keys() == {tap.layer for group in groups for tap in group.taps}
    for layer, values in found.values.items():
        assert bool(values.isfinite().all()), layer
        assert float(values.std()) > 0, layer
        assert criterion == "hessian" or float(values.min()) >= 0


@pytest.fixture(scope="module")
def common() -> dict[str, tuple[nn.Module, Any]]:
    from debride.models.spec import ModelSpec, build
    from debride.planning.groups import find_groups

    made = {}
    for name, side in (RESNET, VIT):
        torch.manual_seed(0)
        model = build(ModelSpec(source=name, outputs=2, channels=3, spatial=(side, side)))
        model = toys.randomise(model)
        made[name] = model, find_groups(model, torch.zeros(1, 3, side, side)).groups
    return made
