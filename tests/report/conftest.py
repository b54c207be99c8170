from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from debride.evidence.evidence import Evidence

from .made_up import make_evidence, make_plan, make_run, measure_whole


@pytest.fixture
def evidence() -> Evidence:
    return make_evidence()


@pytest.fixture
def run() -> dict[str, Any]:
    return make_run()


@pytest.fixture
def plan() -> SimpleNamespace:
    return make_plan()


@pytest.fixture(scope="session")
def whole() -> Evidence:
    return measure_whole()
