"""Logits out of whatever a network returns, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from debride.errors import DebrideError
from debride.models import logits, probabilities, task_of

WANTED = torch.arange(6.0).reshape(2, 3)
OTHER = torch.zeros(2, 7)


class Named(NamedTuple):
    logits: torch.Tensor
    aux: torch.Tensor


@dataclass
class ModelOutput:
    loss: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        WANTED,
        (WANTED, OTHER),
        [WANTED],
        ((WANTED, OTHER), OTHER),
        {"aux": OTHER, "logits": WANTED},
        {"hidden": OTHER, "out": WANTED},
        {"something": WANTED},
        {"foo": torch.tensor(0.3), "bar": WANTED},
        {"maps": torch.zeros(2, 4, 5, 5), "bar": WANTED},
        (torch.tensor(0.3), WANTED),
        Named(WANTED, OTHER),
        ModelOutput(torch.tensor(0.0), WANTED),
        WANTED[:, :, None, None],
    ],
)
def test_logits_are_found(output):
    assert torch.equal(logits(output), WANTED)


def test_a_vector_is_a_single_logit():
    assert logits(torch.tensor([1.0, 2.0])).tolist() == [[1.0], [2.0]]


def test_logits_under_names_that_say_nothing_are_asked_for():
    with pytest.raises(DebrideError, match=r"'foo', 'bar' could each be .*name them 'logits'"):
        logits({"foo": OTHER, "bar": WANTED, "loss": torch.tensor(0.0)})


@pytest.mark.parametrize("output", [torch.zeros(2, 3, 4, 4), "text", None, {}, torch.tensor(1.0)])
def test_other_outputs_are_refused(output):
    with pytest.raises(DebrideError, match="the network returns"):
        logits(output)


@pytest.mark.parametrize(
    ("outputs", "classes", "multilabel", "task"),
    [
        (2, 2, False, "multiclass"),
        (1, 2, False, "binary"),
        (5, 5, True, "multilabel"),
        (1, 1, True, "multilabel"),
    ],
)
def test_task(outputs, classes, multilabel, task):
    assert task_of(outputs, classes, multilabel) == task


@pytest.mark.parametrize(
    ("outputs", "classes", "multilabel"), [(3, 2, False), (1, 3, False), (1, 2, True), (1, 1, 0)]
)
def test_numbers_that_do_not_go_together(outputs, classes, multilabel):
    with pytest.raises(DebrideError, match=f"the network has {outputs} outputs"):
        task_of(outputs, classes, multilabel)


def test_probabilities():
    score = torch.tensor([[0.0, 2.0]])
    assert torch.allclose(
        probabilities(score, "multiclass"), torch.tensor([[0.1192, 0.8808]]), atol=1e-4
    )
    assert torch.allclose(
        probabilities(score, "multilabel"), torch.tensor([[0.5, 0.8808]]), atol=1e-4
    )
    binary = probabilities(torch.tensor([[2.0]]), "binary")
    assert torch.allclose(binary, torch.tensor([[0.1192, 0.8808]]), atol=1e-4)
