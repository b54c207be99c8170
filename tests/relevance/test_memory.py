"""Batches from a memory limit: what is counted, how a batch is cut up."""

import contextlib

import pytest
import torch
from torch import nn

from debride.relevance.memory import GIB, Batches, plan_batches, saved_bytes
from debride.relevance.tracing import new_pass

IMAGE = torch.zeros(1, 1, 32)


def test_each_storage_counts_once_and_parameters_do_not():
    # tanh keeps its output; the linear layer its weight, which is a parameter.
    model = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4))
    assert saved_bytes(model, IMAGE, new_pass(model)) == 16 * 4
    assert saved_bytes(model, IMAGE, new_pass(model), ["1", "2"]) == 16 * 4
    assert saved_bytes(model, IMAGE, new_pass(model), ["0", "3"]) == (16 + 16 + 4) * 4


@pytest.mark.parametrize(
    ("images_in_limit", "whole", "images", "steps"),
    [
        (0.5, False, 1, 1),
        (2.5, False, 2, 1),
        (4, False, 4, 1),
        (13, False, 4, 3),
        (2.5, True, 4, 1),
    ],
)
def test_steps_are_joined_first_and_images_split_last(images_in_limit, whole, images, steps):
    each = 2 * 32 * 4  # what the sigmoid keeps, twice for the backward
    plan = plan_batches(
        nn.Sigmoid(), torch.zeros(4, 1, 32), memory=images_in_limit * each / GIB,
        through=contextlib.nullcontext(), whole=whole,
    )  # fmt: skip
    assert plan == Batches(4, images, steps)


def test_everything_is_covered_once():
    plan = Batches(5, 2, 3)
    assert [range(5)[which] for which in plan.slices()] == [range(2), range(2, 4), range(4, 5)]
    assert list(plan.chunks(7)) == [range(3), range(3, 6), range(6, 7)]


def test_a_layout_that_puts_the_batch_second_is_never_cut_up():
    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sigmoid()

        def forward(self, x):
            return self.inner(x.transpose(0, 1)).sum(0)

    images = torch.zeros(4, 1, 32)
    for memory in (1e-9, 1):
        plan = plan_batches(
            Second(), images, memory=memory, through=contextlib.nullcontext(), taps=["inner"]
        )
        assert plan == Batches(4, 4, 1)
