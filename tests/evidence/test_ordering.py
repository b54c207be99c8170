import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from debride.evidence.ordering import largest, places, ranked, ranks


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SORTS = {
    "random": maps(5, 9, 7),
    "ties": maps(5, 9, 7).mul(2).round(),
    "zeros": maps(5, 9, 7).clamp(min=0) * torch.tensor([1.0, -1, 1, -1, 1])[:, None, None],
    "flat": torch.full((3, 2, 2), 4.0),
    "extremes": torch.tensor([[0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, torch.inf, -torch.inf]]),
    "double": maps(3, 40).double() + 1e-12,
    "half": maps(3, 40).half(),
    "bfloat16": maps(3, 40).bfloat16(),
}


@pytest.mark.parametrize("values", SORTS.values(), ids=SORTS.keys())
def test_ranks_and_places_are_those_of_scipy(values):
    rows = values.flatten(1).double().numpy()
    for method, found in (("average", ranks(values)), ("ordinal", places(values) + 1)):
        expected = np.stack([rankdata(row, method) for row in rows])
        assert np.array_equal(found.numpy(), expected)
    assert torch.equal(ranked(values.flatten(1)), ranks(values))  # as on other devices


@pytest.mark.parametrize("values", SORTS.values(), ids=SORTS.keys())
def test_the_largest_are_the_first_of_a_stable_sort(values):
    rows = values.flatten(1).double().numpy()
    each = np.arange(1, len(rows) + 1)[:, None]
    for count in (1, 3, each):
        expected = np.zeros(rows.shape, dtype=bool)
        for marks, row, size in zip(
            expected, rows, np.broadcast_to(count, each.shape), strict=True
        ):
            marks[np.argsort(-row, kind="stable")[: size[0]]] = True
        assert np.array_equal(largest(rows, count), expected)
        given = count if isinstance(count, int) else torch.from_numpy(count)
        assert np.array_equal(largest(torch.from_numpy(rows), given).numpy(), expected)
