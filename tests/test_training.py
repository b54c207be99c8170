"""The training baseline: it learns, balances, stops, resumes, and leaves everything else alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from debride.errors import DebrideError
from debride.files import UNFINISHED
from debride.resume import check_progress
from debride.training import EpochRecord, train, validation_metric


class Tiny(nn.Module):
    """Batch norm and dropout, so that statistics and randomness count."""

    def __init__(self, outputs: int = 2, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
            )
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def data(count: int, *, seed: int, rare: int = 2, shuffle: bool = True) -> DataLoader:
    """Noise; in the second class, every `rare`-th image, a corner is brighter."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % rare == 0).long()
    images = torch.randn(count, 1, 8, 8, generator=generator)
    images[:, :, :4, :4] += labels[:, None, None, None]
    own = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(images, labels), 16, shuffle=shuffle, generator=own)


def fit(model: nn.Module, **choices):
    settings = {"task": "multiclass", "classes_counts": {"no": 48, "yes": 48}, "epochs": 4}
    validation = choices.pop("validation", data(64, seed=2, shuffle=False))
    return train(model, data(96, seed=1), validation, **(settings | choices))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_keeps_the_best_epoch():
    model, seen = Tiny(), []
    result = fit(model, epochs=8, lr=0.02, on_epoch=seen.append)
    assert tuple(seen) == result.history
    assert [record.epoch for record in seen] == list(range(1, 9))
    assert result.best_metric == max(record.metric for record in seen) > 0.9
    assert seen[-1].loss < 0.6 * seen[0].loss
    scores, labels = [], []
    with torch.inference_mode():
        for images, label in data(64, seed=2, shuffle=False):
            scores.append(model.eval()(images))
            labels.append(label)
    again = validation_metric(torch.cat(scores), torch.cat(labels), "multiclass")
    assert again == result.best_metric


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path, stop_after: int):
    whole = Tiny()
    expected = fit(whole, folder=tmp_path / "whole")

    def stop(record: EpochRecord) -> None:
        if record.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Tiny(), folder=tmp_path / "cut", on_epoch=stop)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [UNFINISHED]
    resumed, seen = Tiny(seed=9), []
    result = fit(resumed, folder=tmp_path / "cut", on_epoch=seen.append)
    assert [record.epoch for record in seen] == list(range(stop_after + 1, 5))
    assert same(state(whole), state(resumed))
    assert (result.best_epoch, result.best_metric) == (expected.best_epoch, expected.best_metric)
    assert [r.loss for r in result.history] == [r.loss for r in expected.history]
    # all epochs are kept until the results are written: what comes after may be stopped as well
    again, seen = Tiny(seed=5), []
    assert fit(again, folder=tmp_path / "cut", on_epoch=seen.append) == result
    assert not seen
    assert same(state(whole), state(again))


def test_a_resumed_training_must_be_the_same_one(tmp_path: Path):
    def stop(record: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Tiny(), folder=tmp_path, on_epoch=stop)
    with pytest.raises(DebrideError, match="unfinished training with epochs 4 instead of 5"):
        fit(Tiny(), folder=tmp_path, epochs=5)
    assert check_progress(tmp_path, {"epochs": 4})
    with pytest.raises(DebrideError, match="unfinished training with epochs 4 instead of 5"):
        check_progress(tmp_path, {"epochs": 5})
    assert not check_progress(tmp_path / "empty", {"epochs": 5})
    with pytest.raises(DebrideError, match="unfinished training with another network"):
        fit(Tiny(outputs=3), folder=tmp_path)
    (tmp_path / UNFINISHED).write_bytes(b"\x00" * 20)
    with pytest.raises(DebrideError, match="is damaged"):
        fit(Tiny(), folder=tmp_path)


def test_a_training_that_diverges_leaves_nothing(tmp_path: Path):
    def break_it(record: EpochRecord) -> None:
        with torch.no_grad():
            model.head[2].weight.fill_(float("inf"))

    model = Tiny()
    with pytest.raises(DebrideError, match=r"not finite|became (nan|inf)"):
        fit(model, folder=tmp_path / "run", on_epoch=break_it)
    assert not (tmp_path / "run").exists()


def test_batch_norm_refuses_single_images_and_others_learn_from_them():
    images, labels = data(8, seed=1).dataset.tensors
    single = DataLoader(TensorDataset(images, labels), 1)
    choices = {"task": "multiclass", "classes_counts": [4, 4], "epochs": 1}
    with pytest.raises(DebrideError, match="give --batch-size 2 or more"):
        train(Tiny(), single, single, **choices)
    plain = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.Linear(2, 2))
    before = state(plain)
    train(plain, single, single, **choices)
    assert not torch.equal(before["2.bias"], plain[2].bias)


def test_everything_else_stays_as_it_was():
    model = Tiny()
    model.body[1].eval()
    model.body[0].bias.requires_grad_(False)
    bias = model.body[0].bias.clone()
    flags = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    fit(model, epochs=1)
    assert flags == [module.training for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(bias, model.body[0].bias)
    assert not model.body[0].bias.requires_grad
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_the_same_seed_gives_the_same_network():
    first, again, other = Tiny(), Tiny(), Tiny()
    fit(first, epochs=2)
    fit(again, epochs=2)
    fit(other, epochs=2, seed=1)
    assert same(state(first), state(again))
    assert not same(state(first), state(other))


def test_it_stops_when_validation_does_not_get_better():
    generator = torch.Generator().manual_seed(0)
    noise = TensorDataset(
        torch.randn(64, 1, 8, 8, generator=generator), torch.randint(2, (64,), generator=generator)
    )
    result = fit(Tiny(), epochs=30, patience=2, lr=0.02, validation=DataLoader(noise, 64))
    assert len(result.history) == result.best_epoch + 2 < 30


def test_a_rare_class_weighs_as_much_as_a_common_one():
    counts = {"common": 300, "rare": 20}

    def recall(counts: dict[str, int]) -> float:
        model = Tiny()
        train(
            model,
            data(320, seed=1, rare=16),
            data(64, seed=2),
            task="multiclass",
            classes_counts=counts,
            epochs=6,
            lr=0.02,
        )
        model.eval()
        images, labels = data(256, seed=4).dataset.tensors
        with torch.inference_mode():
            return float((model(images).argmax(1)[labels == 1] == 1).float().mean())

    assert recall(counts) > recall({"common": 1, "rare": 1}) + 0.3


def test_single_logit_and_multi_label():
    single = Tiny(outputs=1)
    result = fit(single, task="binary", epochs=8, lr=0.02)
    assert result.best_metric > 0.9
    images, labels = data(96, seed=1).dataset.tensors
    both = DataLoader(TensorDataset(images, torch.stack([labels, 1 - labels], 1).float()), 16)
    many = train(Tiny(), both, both, task="multilabel", classes_counts=[48, 48], epochs=8, lr=0.02)
    assert many.best_metric > 0.95


def test_an_image_left_alone_in_the_last_batch_is_no_error():
    images, labels = data(17, seed=1).dataset.tensors
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    loader = DataLoader(TensorDataset(images, labels), 16)
    assert fit(model, epochs=1, validation=loader).best_epoch == 1
    train(model, loader, loader, task="multiclass", classes_counts=[8, 9], epochs=1)


def test_volumes_train_too():
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 27, 2))
    loader = DataLoader(TensorDataset(torch.randn(8, 1, 5, 5, 5), torch.arange(8) % 2), 4)
    result = train(model, loader, loader, task="multiclass", classes_counts=[4, 4], epochs=1)
    assert len(result.history) == 1


def test_errors():
    with pytest.raises(DebrideError, match="0 epochs"):
        fit(Tiny(), epochs=0)
    with pytest.raises(DebrideError, match="no training images"):
        train(Tiny(), [], [], task="multiclass", classes_counts=[1, 1], epochs=1)
    with pytest.raises(DebrideError, match="no validation images"):
        fit(Tiny(), epochs=1, validation=[])
    with pytest.raises(DebrideError, match="hold no labels"):
        train(
            Tiny(), [torch.zeros(2, 1, 8, 8)], [], task="multiclass", classes_counts=[1], epochs=1
        )
    broken = Tiny()
    with torch.no_grad():
        broken.head[2].weight.fill_(float("nan"))
    with pytest.raises(DebrideError, match="training loss became nan at step 1"):
        fit(broken)


def test_validation_metric_ignores_classes_without_images():
    scores = torch.eye(3)[[0, 0, 1, 2]]
    assert validation_metric(scores, torch.tensor([0, 0, 1, 1]), "multiclass") == 0.75
    many = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.8, 0.2]])
    assert validation_metric(many, torch.tensor([[1, 0], [0, 0], [1, 0]]), "multilabel") == 1.0
    single = torch.tensor([[1.0], [-1.0], [1.0], [1.0]])
    assert validation_metric(single, torch.tensor([1, 0, 0, 1]), "binary") == 0.75
