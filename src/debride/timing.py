"""Timing that the machine's moods do not spoil: networks in turns, work by processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def stopwatch(device: torch.device) -> Callable[[], float]:
    """Return what work on a device is timed by: on the CPU the seconds that this process computed.

    Other work on the machine then does not count; what is computed elsewhere has only the clock.
    """
    return time.process_time if device.type == "cpu" else time.perf_counter


def take_turns(
    networks: Sequence[nn.Module], images: Tensor, seconds: float, least: int, most: int
) -> npt.NDArray[np.float64]:
    """Time networks run by run; who begins alternates, and up to three passes warm up.

    Parameters
    ----------
    networks
        On the device of `images`, in eval mode.
    seconds
        Time for the runs; `least` are made even if they take longer, and never over `most`.

    Returns
    -------
    array
        Milliseconds, (networks, runs).
    """
    with torch.inference_mode():
        begin = time.perf_counter()
        for _ in range(3):
            for network in networks:
                _timed(network, images)
            if time.perf_counter() - begin > seconds / 4:
                break
        runs: list[list[float]] = []
        begin = time.perf_counter()
        while len(runs) < least or (len(runs) < most and time.perf_counter() - begin < seconds):
            row = [0.0] * len(networks)
            turns = range(len(networks))
            for position in turns if len(runs) % 2 == 0 else reversed(turns):
                row[position] = _timed(networks[position], images)
            runs.append(row)
    return np.array(runs, dtype=np.float64).T.reshape(len(networks), len(runs))


def _timed(network: nn.Module, images: Tensor) -> float:
    _wait(images.device)
    begin = time.perf_counter()
    network(images)
    _wait(images.device)
    return (time.perf_counter() - begin) * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
