import copy
import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from debride.errors import DebrideError
from debride.evidence import Evidence, evaluate
from debride.evidence.explanations import heatmaps, spearman
from debride.evidence.speed import measure_speed
from debride.planning.costs import measure
from debride.relevance.methods import attribute

from .tiny_classifier import Tiny, gradient_times_input


def noisy(model: nn.Module, scale: float = 0.05) -> nn.Module:
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.fixture
def quick(monkeypatch):
    """Time a few runs instead of a few seconds."""
    monkeypatch.setattr(
        "debride.evidence.measuring.measure_speed", partial(measure_speed, seconds=0, least_runs=2)
    )


def test_numbers_are_those_of_a_plain_loop(images, labels, batches, explainer):
    original, model = Tiny(), noisy(Tiny())
    evidence = evaluate(
        model, batches, original=original, classes="abc", explainer=explainer, speed=False
    )
    with torch.no_grad():
        before = original.eval()(images).argmax(1)
        after = model.eval()(images).argmax(1)
    for found, chosen in (("original", before), ("model", after)):
        measured = evidence.performance[found]
        assert measured["accuracy"] == pytest.approx((chosen == labels).float().mean().item())
        recalls = [(chosen[labels == k] == k).float().mean().item() for k in range(3)]
        assert measured["recall"] == pytest.approx(recalls)
    assert evidence.decisions["same"] == int((before == after).sum())
    assert sum(evidence.decisions.values()) == evidence.images == 60
    costs = measure(model, images[:1])
    assert evidence.cost["model"] == {
        "params": costs.params,
        "macs": costs.macs,
        "bytes": costs.bytes,
    }
    assert evidence.task == "multiclass"
    assert evidence.speed is None


def test_explanations_are_of_the_originals_class_on_an_even_sample(images, batches, explainer):
    original, model = Tiny(), noisy(Tiny())
    evidence = evaluate(
        model, batches, original=original, explain=60, explainer=explainer, speed=False
    )
    targets = original.eval()(images).argmax(1)
    expected = spearman(
        heatmaps(original, images, targets, gradient_times_input),
        heatmaps(model.eval(), images, targets, gradient_times_input),
    )
    assert evidence.explanations["images"] == 60
    assert evidence.explanations["method"] == "custom"
    assert evidence.explanations["spearman"]["mean"] == pytest.approx(expected.mean().item())
    assert evidence.explanations["spearman"]["q10"] == pytest.approx(np.quantile(expected, 0.1))
    for sample in evidence.samples:
        assert sample.spearman == pytest.approx(expected[sample.index].item())
        assert sample.target == targets[sample.index]
        assert sample.image.shape == sample.before.shape == (8, 8)


def test_heatmaps_of_the_sample_are_made_once(batches):
    asked: Counter[str] = Counter()

    def explain(model, images, targets):
        asked[model.name] += len(images)
        return gradient_times_input(model, images, targets)

    original, model = Tiny(), Tiny()  # which decide alike, so that no more are shown
    original.name, model.name = "original", "model"
    evidence = evaluate(
        model, batches, original=original, explain=9, explainer=explain, robustness=0, speed=False
    )
    assert asked == {"original": 9 + 2 * 9, "model": 9}  # and under the two noises of the yardstick
    assert evidence.reasons["custom"]["likeness"]["quantiles"]["spearman"]["mean"] == pytest.approx(
        1
    )


def test_identical_networks_agree_in_everything(batches, explainer):
    evidence = evaluate(
        Tiny(), batches, original=Tiny(), explain=9, explainer=explainer, speed=False
    )
    assert evidence.performance["original"] == evidence.performance["model"]
    assert evidence.explanations["spearman"]["mean"] == pytest.approx(1)
    assert evidence.explanations["top10_overlap"]["mean"] == 1
    assert evidence.explanations["images"] == 9
    assert Counter(sample.true for sample in evidence.samples) == {(0,): 3, (1,): 3, (2,): 3}
    assert not any(sample.changed for sample in evidence.samples)


def test_without_an_explainer_relevance_is_compared(images, batches):
    original, model = Tiny(), noisy(Tiny())
    evidence = evaluate(model, batches, original=original, explain=60, speed=False)
    targets = original.eval()(images).argmax(1)
    maps = [attribute(network, images, targets, rules="epsilon_gamma_box").input.sum(1)
            for network in (original, model)]  # fmt: skip
    assert evidence.explanations["rules"] == "epsilon_gamma_box"
    assert evidence.explanations["spearman"]["mean"] == pytest.approx(
        spearman(*maps).mean().item(), abs=1e-3
    )


def test_changed_decisions_are_shown_first_but_not_counted_twice(batches, explainer):
    evidence = evaluate(
        noisy(Tiny(), 0.6), batches, original=Tiny(), explain=30, explainer=explainer, speed=False
    )
    changed = [sample.changed for sample in evidence.samples]
    assert evidence.images - evidence.decisions["same"] > 4
    assert len(changed) == 12
    assert changed[:4] == [True] * 4
    assert len({sample.index for sample in evidence.samples}) == 12
    assert evidence.explanations["images"] + evidence.explanations["undefined"] == 30


def test_the_choice_follows_the_seed(batches, explainer):
    def chosen(seed: int) -> list[int]:
        evidence = evaluate(Tiny(), batches, explain=6, explainer=explainer, speed=False, seed=seed)
        return [sample.index for sample in evidence.samples]

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)


def test_networks_and_random_state_come_back_as_they_were(images, labels, explainer, quick):
    original, model = Tiny().train(), noisy(Tiny()).train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = [
        (
            [module.training for module in network.modules()],
            [(p.requires_grad, p.grad, p.device) for p in network.parameters()],
            {name: tensor.clone() for name, tensor in network.state_dict().items()},
        )
        for network in (original, model)
    ]
    data = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
    state = torch.get_rng_state()
    evaluate(model, data, original=original, explain=6, explainer=explainer)
    assert torch.equal(torch.get_rng_state(), state)
    for network, (flags, parameters, tensors) in zip((original, model), before, strict=True):
        assert [module.training for module in network.modules()] == flags
        for parameter, (requires_grad, grad, device) in zip(
            network.parameters(), parameters, strict=True
        ):
            assert parameter.requires_grad == requires_grad
            assert parameter.grad is grad
            assert parameter.device == device
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, tensors[name]), name
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks


def test_networks_come_back_after_an_error(batches):
    model = Tiny().train()

    def broken(network: nn.Module, some: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        evaluate(model, batches, explainer=broken)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_single_logit_is_a_binary_task(images, explainer):
    model = Tiny(outputs=1).eval()
    with torch.no_grad():
        positive = model(images)[:, 0].sigmoid()
    labels = (positive > positive.median()).long()
    data = [
        {"image": images[:40], "label": labels[:40]},
        {"image": images[40:], "label": labels[40:]},
    ]
    evidence = evaluate(model, data, explain=4, explainer=explainer, speed=False)
    assert (evidence.task, evidence.classes) == ("binary", ("0", "1"))
    assert evidence.performance["model"]["roc_auc"] == 1
    chosen = (positive > 0.5).long()
    assert evidence.performance["model"]["accuracy"] == pytest.approx(
        (chosen == labels).float().mean().item()
    )
    assert all(sample.target == chosen[sample.index] for sample in evidence.samples)


def test_multilabel_is_read_off_the_labels(images, explainer):
    labels = (torch.randn(60, 3, generator=torch.Generator().manual_seed(3)) > 0).float()
    evidence = evaluate(
        noisy(Tiny()),
        [(images, labels)],
        original=Tiny(),
        explain=6,
        explainer=explainer,
        speed=False,
    )
    assert evidence.task == "multilabel"
    assert evidence.performance["model"]["support"] == labels.sum(0).int().tolist()
    for sample in evidence.samples:
        assert sample.true == tuple(labels[sample.index].nonzero()[:, 0].tolist())


def test_indices_of_the_loader_are_used(images, labels, explainer):
    data = [{"image": images, "label": labels, "index": torch.arange(60).flip(0) + 100}]
    evidence = evaluate(Tiny(), data, explain=3, explainer=explainer, speed=False)
    for sample in evidence.samples:
        assert sample.true == (labels[159 - sample.index].item(),)


def test_volumes_keep_the_most_relevant_slice():
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6 * 4 * 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    images = torch.ones(4, 1, 6, 4, 4)
    images[:, :, 2] = 50
    model = Volume()
    nn.init.ones_(model.fc.weight)
    evidence = evaluate(
        model,
        [(images, torch.tensor([0, 1, 0, 1]))],
        original=copy.deepcopy(model),
        explain=4,
        explainer=gradient_times_input,
        speed=False,
    )
    assert {sample.slice for sample in evidence.samples} == {2}
    assert evidence.samples[0].after.shape == (4, 4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "has no images"),
        ([torch.zeros(2, 1, 8, 8)], "have no labels"),
        ([(torch.zeros(2, 1, 8, 8), torch.tensor([0, 3]))], "label 3 .* not within 0 and 2"),
        ([(torch.zeros(2, 1, 8, 8), torch.tensor([-1, 0]))], "label -1"),
        ([(torch.full((2, 1, 8, 8), torch.nan), torch.tensor([0, 1]))], "not finite"),
    ],
)
def test_bad_data_is_named(data, words):
    with pytest.raises(DebrideError, match=words):
        evaluate(Tiny(), data, speed=False, explain=0)


def test_evidence_survives_json_and_safetensors(batches, explainer, quick, tmp_path):
    evidence = evaluate(
        noisy(Tiny()), batches, original=Tiny(), explain=6, explainer=explainer, classes="abc"
    )
    text = json.dumps(evidence.to_dict(), allow_nan=False)
    again = Evidence.from_dict(json.loads(text))
    assert again.to_dict() == evidence.to_dict()
    assert again.samples[0].image is None
    evidence.save_samples(tmp_path / "heatmaps.safetensors")
    full = again.load_samples(tmp_path / "heatmaps.safetensors")
    for first, second in zip(evidence.samples, full.samples, strict=True):
        for name in ("image", "before", "after"):
            assert np.array_equal(getattr(first, name), getattr(second, name))
        assert first.true == second.true


def test_damaged_evidence_is_named(batches, tmp_path):
    evidence = evaluate(Tiny(), batches, explain=0, speed=False)
    document = evidence.to_dict()
    del document["performance"]["model"]["accuracy"]
    with pytest.raises(DebrideError, match=r"performance\.model\.accuracy"):
        Evidence.from_dict(document)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DebrideError, match="cannot read the heatmaps"):
        evidence.load_samples(tmp_path / "bad.safetensors")
    with pytest.raises(DebrideError, match="cannot read the heatmaps"):
        evidence.load_samples(tmp_path / "none.safetensors")


def test_lesions_go_with_the_pictures_of_the_report(quick, explainer, tmp_path):
    images = torch.rand(6, 1, 8, 8)
    masks = torch.zeros(6, 8, 8)
    masks[:4, 2:5, 3:7] = 3
    batch = {"image": images, "label": torch.arange(6) % 3, "mask": masks}
    evidence = evaluate(noisy(Tiny()), [batch], original=Tiny(), explain=6, explainer=explainer)
    evidence.save_samples(tmp_path / "heatmaps.safetensors")
    again = Evidence.from_dict(evidence.to_dict()).load_samples(tmp_path / "heatmaps.safetensors")
    assert sorted(sample.index for sample in again.samples) == list(range(6))
    for sample in again.samples:
        if sample.index < 4:  # a changed decision or not
            assert sample.mask.dtype == np.uint8
            assert np.array_equal(sample.mask, masks[sample.index].numpy() != 0)
        else:
            assert sample.mask is None
