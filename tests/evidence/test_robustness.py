import numpy as np
import pytest
import torch
from torch import Tensor, nn

from debride.evidence.corruptions import corruptions
from debride.evidence.explanations import heatmaps, spearman
from debride.evidence.robustness import Scale, measure_robustness
from debride.evidence.state import frozen

from .tiny_classifier import Tiny, gradient_times_input


def asked(networks, images, labels, **more):
    with frozen(*networks):
        targets = networks[0](images).argmax(1)
        return measure_robustness(
            networks, images, labels.numpy(), targets, gradient_times_input,
            task="multiclass", classes=("a", "b", "c"), **more,
        )  # fmt: skip


def test_numbers_are_those_of_a_plain_loop(images: Tensor, labels: Tensor):
    original, model = Tiny(), Tiny(seed=5)
    scale = Scale((0.5,), (0.25,))
    found = asked([original, model], images, labels, scale=scale, explained=6)
    assert found["scale"] == "mean and std of the preparation"
    noise = next(each for each in corruptions() if each.name == "noise")
    with frozen(original, model):
        targets = original(images).argmax(1)
        clean = heatmaps(model, images[:6], targets[:6], gradient_times_input)
        for severity, level in enumerate(noise.levels):
            generator = torch.Generator().manual_seed(severity)
            pixels = noise.apply(images * 0.25 + 0.5, level, generator)
            changed = (pixels.clamp(0, 1) - 0.5) / 0.25
            decided = model(changed).argmax(1)
            recalls = [(decided[labels == k] == k).double().mean().item() for k in range(3)]
            curve = found["corruptions"]["noise"]["model"]
            assert curve["balanced_accuracy"][severity] == pytest.approx(np.mean(recalls))
            heat = heatmaps(model, changed[:6], targets[:6], gradient_times_input)
            drift = 1 - spearman(clean, heat).mean().item()
            assert curve["drift"][severity] == pytest.approx(drift, abs=1e-6)


def test_one_network_gives_one_curve_twice_the_same_network_two_equal_ones(images, labels):
    alone = asked([Tiny()], images, labels)
    assert alone["clean_original"] is None
    twice = asked([Tiny(), Tiny()], images, labels)
    assert alone["corruptions"].keys() == twice["corruptions"].keys()
    for name, curves in twice["corruptions"].items():
        assert curves["original"] == curves["model"], name
        assert curves["model"] == alone["corruptions"][name]["model"]
        assert alone["corruptions"][name]["original"] is None


def test_a_heatmap_that_turns_with_the_image_has_not_drifted():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 4, 4, generator=generator)
    images = nn.functional.interpolate(images, (48, 48), mode="bicubic")
    found = measure_robustness(
        [nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 2))], images, np.array([0, 1, 0, 1]),
        torch.zeros(4, dtype=torch.long), lambda model, some, targets: some,
        task="multiclass", classes=("a", "b"),
    )  # fmt: skip
    assert found["scale"] == "least and greatest values of the images"
    assert max(found["corruptions"]["rotation"]["model"]["drift"]) < 0.01
    assert max(found["corruptions"]["brightness"]["model"]["drift"]) < 0.1
    assert found["corruptions"]["noise"]["model"]["drift"][-1] > 0.1


def test_what_makes_no_sense_is_left_out_and_said():
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.flatten(1).mean(1)
            return torch.stack([bright, 1 - bright], dim=1)

    def measured(images: Tensor):
        targets = torch.zeros(len(images), dtype=torch.long)
        return measure_robustness(
            [Mean()], images, np.array([0, 1]), targets, None,
            task="multiclass", classes=("a", "b"),
        )  # fmt: skip

    volumes = measured(torch.rand(2, 1, 6, 8, 8))
    assert volumes["left_out"] == {"jpeg": "JPEG files hold flat images"}
    assert (volumes["explained"], volumes["corruptions"]["noise"]["model"]["drift"]) == (0, [])
    many = measured(torch.rand(2, 5, 8, 8))
    assert many["left_out"] == {"jpeg": "JPEG files hold 1 or 3 channels, not 5"}
    assert set(many["corruptions"]) == set(volumes["corruptions"])


def test_the_range_of_the_values_is_black_to_white():
    images = torch.tensor([-2.0, 0.0, 6.0]).reshape(3, 1, 1, 1)
    scale = Scale.seen_in(images)
    assert scale.pixels(images).flatten().tolist() == [0.0, 0.25, 1.0]
    assert torch.allclose(scale.values(scale.pixels(images)), images)
