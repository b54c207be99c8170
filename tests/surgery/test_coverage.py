"""Six networks of the coverage table, halved; `benchmarks/surgery_coverage.py` does them all."""

from __future__ import annotations

import pytest

import surgery_coverage as coverage
from common_networks import Entry

ENTRIES = [entry for entry in coverage.entries() if entry.name in coverage.REPRESENTATIVE]


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.family} {entry.name}")
def test_half_of_the_channels_can_go(entry: Entry) -> None:
    row = coverage.check(entry, (0.5,), uneven=False)
    assert coverage.verdict(row) == ""
    assert row["macs_reached"] > 0.5
    half = row["plans"]["0.5"]
    assert half["macs"] < 0.75
    assert half["changed_by"] > 100 * half["difference"]
