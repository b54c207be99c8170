import numpy as np
import pytest
import torch
from torch import Tensor, nn

from debride.evidence.faithfulness import _blurred, faithfulness
from debride.evidence.state import frozen

from .tiny_classifier import Tiny, gradient_times_input


def slow(model, image, heat, target, steps, *, insertion):
    """One image, one step after the other, one pixel after the other."""
    mean = image.mean((1, 2), keepdim=True).expand_as(image)
    canvas = _blurred(image[None])[0] if insertion else image.clone()
    source = image if insertion else mean
    order = np.argsort(-heat.flatten().numpy(), kind="stable")
    width, scores, done = heat.shape[1], [], 0
    for step in range(steps + 1):
        for place in order[done : round(step / steps * len(order))]:
            row, column = divmod(int(place), width)
            canvas[:, row, column] = source[:, row, column]
        done = round(step / steps * len(order))
        scores.append(model(canvas[None]).softmax(1)[0, target].item())
    return scores


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_areas_are_those_of_a_plain_loop_whatever_the_batch(images: Tensor, batch: int):
    model, some = Tiny(), images[:5]
    with frozen(model):
        targets = model(some).argmax(1)
        heat = gradient_times_input(model, some, targets).sum(1).detach()
        found = faithfulness(model, some, heat, targets, "multiclass", steps=8, batch=batch)
        for name, insertion in (("deletion", False), ("insertion", True)):
            curves = np.array(
                [
                    slow(model, image, each, target, 8, insertion=insertion)
                    for image, each, target in zip(some, heat, targets, strict=True)
                ]
            )
            areas = np.trapezoid(curves, dx=1 / 8, axis=1)
            assert found[name] == pytest.approx(areas.tolist(), abs=1e-5)
            assert found[f"{name}_curve"] == pytest.approx(curves.mean(0).tolist(), abs=1e-5)


class Corner(nn.Module):
    """Decides by the upper left quarter alone."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, :4, :4].mean((1, 2)) * 8
        return torch.stack([-bright, bright], dim=1)


def test_a_map_that_names_the_place_is_more_faithful_than_one_that_does_not():
    images = torch.zeros(3, 1, 8, 8)
    images[:, :, :4, :4] = 1.0
    right, wrong = torch.zeros(2, 3, 8, 8)
    right[:, :4, :4] = 1.0
    wrong[:, 4:, 4:] = 1.0
    targets = torch.ones(3, dtype=torch.long)
    good, bad = (
        faithfulness(Corner(), images, heat, targets, "multiclass", steps=4)
        for heat in (right, wrong)
    )
    assert good["deletion_quantiles"]["mean"] < bad["deletion_quantiles"]["mean"]
    assert good["insertion_quantiles"]["mean"] > bad["insertion_quantiles"]["mean"]
    # after a quarter of the pixels only the mean of 1/4 is left in the corner
    assert good["deletion_curve"][1] == pytest.approx(torch.tensor(4.0).sigmoid().item())
    assert good["insertion_curve"][1] == pytest.approx(torch.tensor(16.0).sigmoid().item())
