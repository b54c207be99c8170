"""Latency of two networks, measured in turns so that the machine's moods hit both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.evidence.resources import Pair, energy, energy_counter, peak_bytes
from debride.timing import take_turns


class Latency(TypedDict):
    """Milliseconds a batch: the median of the runs and the quartiles around it."""

    median: float
    q25: float
    q75: float


class BatchLatency(TypedDict):
    """Latency of both networks at one batch size, measured in turns."""

    batch: int
    runs: int
    original: Latency | None
    model: Latency
    speedup: float | None
    """Median of the original over median of the model: 2 is twice as fast."""
    speedup_q25: float | None
    speedup_q75: float | None


class Speed(TypedDict):
    """Latency, memory and energy of both networks, and what they were measured with."""

    device: str
    threads: int
    torch: str
    batches: list[BatchLatency]
    one_thread: NotRequired[BatchLatency | None]
    """One image with a single thread; None off the CPU."""
    memory: NotRequired[Pair]
    """Bytes at the peak of one image's forward: weights, image and all live activations."""
    energy: NotRequired[Pair | None]
    """Joules an image, of the whole processor package."""
    energy_missing: NotRequired[str | None]
    onnx: NotRequired[list[BatchLatency] | None]
    """The same batches in onnxruntime; None where not asked for."""


def measure_speed(
    model: nn.Module,
    example: Tensor,
    *,
    original: nn.Module | None = None,
    batches: Sequence[int] = (1, 16),
    seconds: float = 3.0,
    least_runs: int = 5,
    most_runs: int = 100,
) -> Speed:
    """Time forward passes in eval mode; the number of threads is handed back as it was.

    The two networks take turns run by run, and who begins alternates too. Three passes of
    each (one, if it is slow) warm up and are not counted.

    Parameters
    ----------
    model, original
        Networks on the device of `example`, in eval mode.
    example
        (N, C, *spatial), N ≥ 1; repeated or cut to each batch size.
    batches
        Batch sizes.
    seconds
        Time for each batch size; `least_runs` are made even if they take longer.
    least_runs, most_runs
        Bounds on the number of runs.

    Examples
    --------
    >>> speed = measure_speed(nn.Identity(), torch.zeros(1, 1, 4, 4), batches=(2,), seconds=0.01)
    >>> speed["batches"][0]["batch"], speed["batches"][0]["original"]
    (2, None)
    """
    networks = [model] if original is None else [original, model]
    device = example.device
    results = [
        _timed(networks, _batch(example, size), seconds, least_runs, most_runs) for size in batches
    ]
    alone = None
    if device.type == "cpu":
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            alone = _timed(networks, example[:1], seconds / 3, least_runs, most_runs)
        finally:
            torch.set_num_threads(threads)
    peaks = [peak_bytes(network, example[:1]) for network in networks]
    counter = energy_counter() if device.type == "cpu" else "measured for processors only"
    missing = counter if isinstance(counter, str) else None
    spent = [] if isinstance(counter, str) else energy(networks, example, counter, seconds)
    return Speed(
        device=_device_name(device),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        batches=results,
        one_thread=alone,
        memory=_pair(peaks),
        energy=_pair(spent) if spent else None,
        energy_missing=missing,
        onnx=None,
    )


def measure_onnx_speed(
    networks: Sequence[nn.Module],
    example: Tensor,
    *,
    batches: Sequence[int] = (1, 16),
    seconds: float = 3.0,
    least_runs: int = 5,
    most_runs: int = 100,
) -> list[BatchLatency]:
    """Export networks, and time them in onnxruntime on the CPU as `measure_speed` does.

    Parameters
    ----------
    networks
        The model, or the original and the model.
    example
        (N, C, *spatial), N ≥ 1.
    batches, seconds, least_runs, most_runs
        See `measure_speed`.

    Raises
    ------
    DebrideError
        Where the exporter or onnxruntime is missing, or a network cannot be exported.
    """
    from debride.artifact.onnx import OnnxNetwork, check_installed, export_onnx, silent

    check_installed()
    images = example.cpu()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(len(networks))]
        for network, file in zip(networks, files, strict=True):
            with silent():
                export_onnx(network, images, file)
        sessions = [OnnxNetwork(file) for file in files]
        return [
            _timed(sessions, _batch(images, size), seconds, least_runs, most_runs)
            for size in batches
        ]


def _batch(example: Tensor, size: int) -> Tensor:
    repeats = -(-size // len(example))
    return example.repeat(repeats, *[1] * (example.ndim - 1))[:size].contiguous()


def _timed(
    networks: Sequence[nn.Module], images: Tensor, seconds: float, least: int, most: int
) -> BatchLatency:
    times = take_turns(networks, images, seconds, least, most)
    both = len(networks) == 2
    quartiles = np.quantile(times[0] / times[-1], [0.25, 0.75])
    return BatchLatency(
        batch=len(images),
        runs=times.shape[1],
        original=_latency(times[0]) if both else None,
        model=_latency(times[-1]),
        speedup=_median(times[0]) / _median(times[-1]) if both else None,
        speedup_q25=float(quartiles[0]) if both else None,
        speedup_q75=float(quartiles[1]) if both else None,
    )


def _pair(values: Sequence[float]) -> Pair:
    return Pair(original=values[0] if len(values) == 2 else None, model=values[-1])


def _median(times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.median(times))


def _latency(times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    q25, median, q75 = (float(value) for value in np.quantile(times, [0.25, 0.5, 0.75]))
    return Latency(median=median, q25=q25, q75=q75)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
