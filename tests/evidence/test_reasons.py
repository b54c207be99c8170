import copy
import json

import pytest
import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.evidence import Evidence, evaluate
from debride.evidence.explanations import heatmaps, spearman
from debride.evidence.likeness import MEASURES
from debride.evidence.reasons import AGREE, NOISE, measure_reasons
from debride.evidence.state import frozen

from .tiny_classifier import Tiny, gradient_times_input


class Looks(nn.Module):
    """Blurs, and tells from the mean of one place whether something bright is there."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 1, 5, padding=2)
        nn.init.constant_(self.blur.weight, 1 / 25)
        nn.init.zeros_(self.blur.bias)
        self.place = (slice(None), 0, slice(row, row + 8), slice(column, column + 8))

    def forward(self, x: Tensor) -> Tensor:
        bright = self.blur(x).relu()[self.place].mean((1, 2)) * 8 - 2
        return torch.stack([-bright, bright], dim=1)


@pytest.fixture
def watermarked() -> tuple[Tensor, Tensor]:
    """Sick images have a lesion in the middle, and a hospital's mark in a corner."""
    labels = torch.arange(40) % 2
    images = 0.1 * torch.randn(40, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    images[labels == 1, :, 12:20, 12:20] += 1.0
    images[labels == 1, :, 0:8, 24:32] += 1.0
    return images, labels


def test_moved_reasons_are_caught_though_all_decisions_are_the_same(watermarked):
    by_mark, by_lesion = Looks(0, 24), Looks(12, 12)
    found = evaluate(
        by_lesion, [watermarked], original=by_mark, explain=40, methods=["lrp"], robustness=0,
        speed=False,
    )  # fmt: skip
    assert found.decisions is not None
    assert found.reasons is not None
    assert found.decisions["same"] == 40
    assert found.performance["model"]["balanced_accuracy"] == 1
    (reasons,) = found.reasons.values()
    for yardstick in reasons["yardsticks"]:
        for name in ("spearman", "cosine", "ssim", "top10_iou", "centre_shift"):
            assert yardstick["beyond"][name] == 1.0, name
    moved = reasons["likeness"]["quantiles"]
    noise = reasons["yardsticks"][-1]["likeness"]["quantiles"]
    assert moved["spearman"]["q95"] < noise["spearman"]["q05"]
    assert moved["cosine"]["q95"] == pytest.approx(0, abs=1e-6)  # they share no pixel
    # from (16, 16) to (4, 28): 17 pixels of a diagonal of 45
    assert moved["centre_shift"]["q50"] == pytest.approx(0.375, abs=0.05)


def test_an_unpruned_copy_is_within_every_yardstick(watermarked):
    network = Looks(12, 12)
    found = evaluate(
        copy.deepcopy(network), [watermarked], original=network, explain=20, methods=["lrp"],
        robustness=0, speed=False,
    )  # fmt: skip
    assert found.reasons is not None
    reasons = found.reasons["lrp"]
    assert reasons["rules"] == "epsilon_gamma_box"
    for yardstick in reasons["yardsticks"]:
        assert set(yardstick["beyond"].values()) == {0.0}
    for name in MEASURES:
        wanted = 0.0 if name == "centre_shift" else 1.0
        assert reasons["likeness"]["quantiles"][name]["mean"] == pytest.approx(wanted, abs=1e-6)


def asked(networks, images, **more):
    with frozen(*networks, *([more["second"]] if "second" in more else [])):
        return measure_reasons(
            networks, images, networks[0](images).argmax(1), {"custom": gradient_times_input},
            task="multiclass", indices=range(len(images)),
            strata=[k % 3 for k in range(len(images))], classes=3, **more,
        )["custom"]  # fmt: skip


def test_numbers_are_those_of_a_plain_loop(images: Tensor):
    images = images[:12]
    original, model, other = Tiny(), Tiny(seed=1), Tiny(seed=2)
    found = asked([original, model], images, second=other, seed=5)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    with frozen(original, model, other):
        targets = original(images).argmax(1)

        def maps(network: nn.Module, some: Tensor) -> Tensor:
            return heatmaps(network, some, targets, gradient_times_input)

        before = maps(original, images)
        pruned = spearman(before, maps(model, images))
        noisy = [spearman(before, maps(original, images + s * images.std() * noise)) for s in NOISE]
        retrained = spearman(before, maps(other, images))
    assert found["likeness"]["values"]["spearman"] == pytest.approx(pruned.tolist())
    kinds = [(each["kind"], each["level"]) for each in found["yardsticks"]]
    assert kinds == [("noise", NOISE[0]), ("noise", NOISE[1]), ("training", None)]
    for each, wanted in zip(found["yardsticks"], [*noisy, retrained], strict=True):
        assert each["likeness"]["values"]["spearman"] == pytest.approx(wanted.tolist(), abs=1e-4)
        beyond = (pruned < wanted.quantile(0.05).clamp(max=AGREE)).double().mean().item()
        assert each["beyond"]["spearman"] == pytest.approx(beyond)
    for k in range(3):
        assert found["classes"]["spearman"][k]["mean"] == pytest.approx(pruned[k::3].mean().item())
    assert found["faithfulness"]["images"] == 12


@pytest.mark.parametrize(("mixed", "beyond"), [(0.3, 0.0), (3.0, 1.0)])
def test_heatmaps_that_agree_are_not_beyond_noise_that_moves_next_to_nothing(
    images: Tensor, mixed: float, beyond: float
):
    images = images[:12]
    pattern, other = torch.randn(2, *images[0].shape, generator=torch.Generator().manual_seed(0))
    original, model = Tiny(), Tiny(seed=1)
    drawn = {id(original): pattern, id(model): pattern + mixed * other}

    def calm(network: nn.Module, some: Tensor, _targets: Tensor) -> Tensor:
        return drawn[id(network)] + 1e-4 * some

    found = measure_reasons(
        [original, model], images, torch.zeros(12, dtype=torch.long), {"calm": calm},
        task="multiclass", indices=range(12), strata=[0] * 12, classes=3,
    )["calm"]  # fmt: skip
    noise = found["yardsticks"][-1]
    moved = found["likeness"]["quantiles"]["spearman"]
    assert moved["q95"] < noise["likeness"]["quantiles"]["spearman"]["q05"]
    assert (moved["q05"] > AGREE) is (beyond == 0)
    assert noise["beyond"]["spearman"] == noise["classes"]["spearman"][0] == beyond
    assert noise["beyond"]["ssim"] == 1.0


def test_each_class_is_held_against_its_own_yardstick(images: Tensor):
    networks = [Tiny(), Tiny(seed=1)]
    with frozen(*networks):
        targets = networks[0](images).argmax(1)
        found = measure_reasons(
            networks, images, targets, {"custom": gradient_times_input}, task="multiclass",
            indices=range(60), strata=[0] * 9 + [1] * 51, classes=3,
        )["custom"]  # fmt: skip
    moved = torch.tensor(found["likeness"]["values"]["spearman"])[9:]
    for yardstick in found["yardsticks"]:
        theirs = torch.tensor(yardstick["likeness"]["values"]["spearman"])[9:]
        few, many, none = yardstick["classes"]["spearman"]
        assert (few, none) == (None, None)
        assert many == pytest.approx((moved < theirs.quantile(0.05)).double().mean().item())


def test_more_noise_moves_heatmaps_further(images: Tensor):
    weak, strong = asked([Tiny()], images)["yardsticks"]
    for name in ("spearman", "ssim", "cosine", "top10_iou"):
        assert (
            weak["likeness"]["quantiles"][name]["mean"]
            > strong["likeness"]["quantiles"][name]["mean"]
        )
    assert (
        weak["likeness"]["quantiles"]["centre_shift"]["mean"]
        < strong["likeness"]["quantiles"]["centre_shift"]["mean"]
    )
    assert weak["beyond"] == {}


def test_grad_cam_is_compared_where_there_are_maps(images: Tensor, labels: Tensor):
    def methods(network: nn.Module) -> list[str]:
        found = evaluate(network, [(images, labels)], explain=6, robustness=0, speed=False)
        assert found.reasons is not None
        return list(found.reasons)

    assert methods(Tiny()) == ["lrp", "gradcam"]
    assert methods(nn.Sequential(nn.Flatten(), nn.Linear(64, 3))) == ["lrp"]


def test_an_unknown_method_is_named_and_none_is_allowed(images: Tensor, labels: Tensor):
    data = [(images, labels)]
    with pytest.raises(DebrideError, match="no explanation method 'lpr'"):
        evaluate(Tiny(), data, methods=["lpr"], speed=False)
    found = evaluate(Tiny(), data, methods=(), explain=6, robustness=12, speed=False)
    assert found.reasons is None
    assert found.robustness is not None
    assert (found.robustness["images"], found.robustness["explained"]) == (12, 0)


def test_a_second_training_and_the_thread_count_come_back_as_they_were(images, labels):
    second = Tiny(seed=4).train()
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    threads = torch.get_num_threads()
    evaluate(
        Tiny(), [(images, labels)], original=Tiny(), second=second, explain=6, robustness=6,
        speed=False,
    )  # fmt: skip
    assert second.training
    assert torch.get_num_threads() == threads
    assert all(p.requires_grad for p in second.parameters())
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_reasons_and_robustness_survive_json(images: Tensor, labels: Tensor):
    found = evaluate(
        Tiny(seed=3), [(images, labels)], original=Tiny(), explain=9, robustness=9, speed=False
    )
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Evidence.from_dict(json.loads(text))
    assert again.reasons == found.reasons
    assert again.robustness == found.robustness
