"""Latency of two networks, measured in turns so that the machine's moods hit both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from debride.evidence.evidence import BatchLatency, Latency, Speed
from debride.timing import take_turns


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
    """Time forward passes in eval mode; the number of threads is recorded, not changed.

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
    results: list[BatchLatency] = []
    for size in batches:
        repeats = -(-size // len(example))
        images = example.repeat(repeats, *[1] * (example.ndim - 1))[:size].contiguous()
        times = take_turns(networks, images, seconds, least_runs, most_runs)
        ratios = times[0] / times[-1]
        quartiles = np.quantile(ratios, [0.25, 0.75])
        results.append(
            BatchLatency(
                batch=size,
                runs=times.shape[1],
                original=None if original is None else _latency(times[0]),
                model=_latency(times[-1]),
                speedup=None if original is None else _median(times[0]) / _median(times[-1]),
                speedup_q25=None if original is None else float(quartiles[0]),
                speedup_q75=None if original is None else float(quartiles[1]),
            )
        )
    return Speed(
        device=_device_name(example.device),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        batches=results,
    )


def _median(times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.median(times))


def _latency(times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    q25, median, q75 = (float(value) for value in np.quantile(times, [0.25, 0.5, 0.75]))
    return Latency(median=median, q25=q25, q75=q75)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
