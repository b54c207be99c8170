"""How far a cut network's outputs have moved from the original's."""

import math

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.validation import Validation

CPU = torch.device("cpu")


class Fixed(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, x):
        return self.scores[: len(x)]


def test_divergence_is_the_mean_over_images_of_the_sum_over_classes():
    p, q = torch.tensor([[0.5, 0.5], [0.8, 0.2]]), torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    data = [(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]))]
    judge = Validation(Fixed(p.log().tolist()), data, None, CPU)
    outputs = judge.outputs(Fixed(q.log().tolist()))
    expected = (
        sum(
            float(p[i, k]) * math.log(float(p[i, k]) / float(q[i, k]))
            for i in range(2)
            for k in range(2)
        )
        / 2
    )
    assert judge.divergence(outputs) == pytest.approx(expected, rel=1e-5)
    assert judge.divergence(judge.original) == pytest.approx(0, abs=1e-7)
    assert judge.metric(outputs) == 1.0


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.tensor([[1, 0], [0, 1]])])
def test_single_logits_and_several_labels_are_bernoulli(labels):
    columns = 1 if labels.ndim == 1 else 2
    before, after = torch.tensor([[0.3], [-1.0]]), torch.tensor([[1.1], [0.4]])
    data = [(torch.zeros(2, 1, 2, 2), labels)]
    judge = Validation(Fixed(before.expand(2, columns).tolist()), data, None, CPU)
    found = judge.divergence(after.expand(2, columns))
    p, q = before.sigmoid(), after.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() * columns / 2
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_of_no_class_are_refused(label):
    data = [(torch.zeros(2, 1, 2, 2), torch.tensor([0, label]))]
    with pytest.raises(DebrideError, match=f"the label {label}, and the network tells 2 classes"):
        Validation(Fixed([[0.0, 1.0], [1.0, 0.0]]), data, None, CPU)
