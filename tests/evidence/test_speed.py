import time

import torch
from torch import Tensor, nn

from debride.evidence.speed import measure_speed


class Diary(nn.Module):
    """Writes down when it is called, and with how many images."""

    def __init__(self, name: str, diary: list[tuple[str, int]], rest: float = 0.0) -> None:
        super().__init__()
        self.name, self.diary, self.rest = name, diary, rest

    def forward(self, x: Tensor) -> Tensor:
        self.diary.append((self.name, len(x)))
        time.sleep(self.rest)
        return x


def test_networks_take_turns_and_who_begins_alternates():
    diary: list[tuple[str, int]] = []
    speed = measure_speed(
        Diary("model", diary),
        torch.zeros(3, 1, 2, 2),
        original=Diary("original", diary),
        batches=(2, 16),
        seconds=0,
        least_runs=4,
    )
    for batch in speed["batches"]:
        calls = [name for name, size in diary if size == batch["batch"]]
        timed = calls[-2 * batch["runs"] :]
        assert batch["runs"] == 4
        assert timed == ["original", "model", "model", "original"] * 2
        assert len(calls) > len(timed)  # some warmed up


def test_the_slower_network_is_found_slower():
    diary: list[tuple[str, int]] = []
    speed = measure_speed(
        Diary("model", diary, rest=0.001),
        torch.zeros(1, 1, 2, 2),
        original=Diary("original", diary, rest=0.02),
        batches=(1,),
        seconds=0,
    )
    (batch,) = speed["batches"]
    assert batch["original"] is not None
    assert batch["speedup"] is not None
    assert batch["speedup"] > 2
    assert batch["speedup"] == batch["original"]["median"] / batch["model"]["median"]
    assert batch["speedup_q25"] <= batch["speedup_q75"]
    assert batch["model"]["q25"] <= batch["model"]["median"] <= batch["model"]["q75"]


def test_threads_are_recorded_not_changed_and_one_network_alone_has_no_ratio():
    before = torch.get_num_threads()
    speed = measure_speed(
        nn.Identity(), torch.zeros(1, 1, 2, 2), batches=(1,), seconds=0, least_runs=1
    )
    assert speed["threads"] == before == torch.get_num_threads()
    assert speed["device"] == "CPU"
    assert speed["batches"][0]["original"] is None
    assert speed["batches"][0]["speedup"] is None


def test_a_slow_network_stops_at_the_least_runs_and_a_fast_one_at_the_most():
    speed = measure_speed(
        nn.Identity(), torch.zeros(1, 1, 2, 2), batches=(1,), seconds=60, most_runs=7
    )
    assert speed["batches"][0]["runs"] == 7
