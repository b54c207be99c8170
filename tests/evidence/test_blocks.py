"""Pieces and threads change nothing, nor do tensors in the place of arrays."""

import pytest
import torch

from debride.evidence import explanations, likeness, localisation
from debride.evidence.blocks import in_blocks


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("values", [1, 20, 10_000])
def test_pieces_give_what_the_whole_gives(monkeypatch, threads, values):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    first, second = maps(7, 2, 5), maps(7, 10, seed=1)
    sizes: list[int] = []

    def measure(a, b):
        sizes.append(len(a))
        return (a.reshape(len(a), -1) * b).sum(1)

    found = in_blocks(measure, first, second, values=values)
    assert torch.allclose(found, (first.flatten(1) * second).sum(1))
    assert sorted(sizes, reverse=True) == {1: [1] * 7, 20: [2, 2, 2, 1], 10_000: [7]}[values]


def test_no_rows_give_no_rows():
    assert in_blocks(lambda a: a.sum(1), torch.zeros(0, 4)).shape == (0,)


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fails(rows):
        raise ValueError("not these")

    with pytest.raises(ValueError, match="not these"):
        in_blocks(fails, torch.zeros(4, 3), values=3)


@pytest.mark.parametrize("shape", [(4, 20, 14), (3, 9, 8, 7), (3, 30)])
def test_other_devices_give_what_the_cpu_gives(shape):
    """They are given tensors, and the CPU arrays."""
    first, second, masks = maps(*shape), maps(*shape, seed=1), maps(*shape, seed=2) > 0.5
    masks[0] = False
    second = second.mul(3).round() + first.clamp(min=0)
    a, b, inside = first.flatten(1), second.flatten(1), masks.flatten(1)
    for measure, given in (
        (likeness._structure, (first, second)),
        (likeness._angle, (a, b)),
        (explanations._rank_products, (a, b)),
        (localisation._scored, (a, inside)),
    ):
        elsewhere = measure(*given)
        assert elsewhere.dtype == torch.float64
        torch.testing.assert_close(
            in_blocks(measure, *given), elsewhere, rtol=1e-12, atol=1e-12, equal_nan=True
        )
