import importlib.util
import itertools
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from debride.evidence.resources import energy, energy_counter, peak_bytes
from debride.evidence.speed import measure_onnx_speed, measure_speed
from debride.evidence.state import frozen

from .tiny_classifier import Tiny


class Chain(nn.Module):
    """Holds on to every intermediate, or lets each go."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for _ in range(5):
            x = x + 1
            if self.keep:
                kept.append(x)
        return x


def test_memory_counts_what_is_alive_at_once():
    image = torch.zeros(1, 1000)
    # the image, and two steps of the chain at once
    assert peak_bytes(Chain(keep=False), image) == 4000 + 2 * 4000
    assert peak_bytes(Chain(keep=True), image) == 4000 + 5 * 4000


def test_weights_count_once_though_two_layers_share_them():
    layer = nn.Linear(100, 100, bias=False)
    both = nn.Sequential(layer, layer)
    alone = peak_bytes(nn.Sequential(layer), torch.zeros(1, 100))
    assert peak_bytes(both, torch.zeros(1, 100)) == alone + 400


def machine(root, packages):
    for name, microjoules in packages.items():
        (root / name).mkdir()
        (root / name / "energy_uj").write_text(f"{microjoules}\n")
    return root


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    parts = {"intel-rapl:0": 2_000_000, "intel-rapl:1": 500_000, "intel-rapl:0:0": 900_000}
    read = energy_counter(machine(tmp_path, parts))
    assert not isinstance(read, str)
    assert read() == 2.5


def test_a_machine_that_does_not_tell_is_named(tmp_path):
    assert energy_counter(tmp_path) == "this machine does not tell (no RAPL)"
    reason = energy_counter(machine(tmp_path, {"intel-rapl:0": "nothing"}))
    assert isinstance(reason, str)
    assert "may not be read" in reason


def test_energy_is_told_for_each_image():
    joules = itertools.count(0.0, 6.0)  # six for every turn
    found = energy([nn.Identity(), nn.Identity()], torch.zeros(2, 1), lambda: next(joules), 0.0)
    assert found == [3.0, 3.0]


def test_one_thread_is_timed_and_the_count_comes_back():
    class Threads(nn.Module):
        seen: ClassVar[set[int]] = set()

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    found = measure_speed(Threads(), torch.zeros(1, 1, 4, 4), batches=(1,), seconds=0)
    assert torch.get_num_threads() == before
    assert {1, before} == Threads.seen
    assert found["one_thread"]["batch"] == 1
    assert found["memory"]["original"] is None
    assert (found["energy"] is None) == (found["energy_missing"] is not None)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnxruntime and the exporter are in the extra 'export'",
)
def test_onnxruntime_is_timed_on_the_same_batches():
    networks = [Tiny(), Tiny(seed=1)]
    with frozen(*networks):
        found = measure_onnx_speed(
            networks, torch.zeros(2, 1, 8, 8), batches=(1, 4), seconds=0, least_runs=3
        )
    assert [each["batch"] for each in found] == [1, 4]
    for each in found:
        assert each["runs"] == 3
        assert each["speedup"] == each["original"]["median"] / each["model"]["median"]
