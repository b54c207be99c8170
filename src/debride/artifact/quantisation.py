"""An ONNX file in 8-bit integers, by onnxruntime's static quantisation after training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from debride.artifact.onnx import INPUT, silent
from debride.errors import DebrideError
from debride.models.registry import first_line

ATTENTION = ["Conv", "Gemm", "MatMul"]
"""What is quantised where there is attention: softmax and norms lose too much in 8 bits."""


def quantise(
    source: str | Path,
    target: str | Path,
    batches: Iterable[Tensor],
    *,
    per_channel: bool = True,
) -> None:
    """Write an ONNX file in int8 beside one in float32 (QDQ form: weights int8, activations uint8).

    Ranges of activations are the least and largest values met on the calibration images.

    Parameters
    ----------
    source, target
        ONNX files; `target` is new.
    batches
        Calibration images (B, C, ...), float32, prepared as the network sees them.
    per_channel
        A scale for every output channel of a layer, instead of one a layer.

    Raises
    ------
    DebrideError
        When onnxruntime cannot quantise the network.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=Path(target).parent, prefix=".int8.") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            with silent():
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                quantize_static(
                    str(prepared),
                    str(target),
                    _Reader(batches),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=per_channel,
                    op_types_to_quantize=ATTENTION if _attends(prepared) else None,
                )
        except Exception as error:  # whatever a third-party tool meets in a stranger's network
            raise DebrideError(
                f"onnxruntime cannot quantise this network: {first_line(error)}; leave out --int8"
            ) from error


class _Reader:
    """Calibration images in the form that onnxruntime asks for."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def _attends(path: Path) -> bool:
    import onnx

    nodes: Any = onnx.load(str(path), load_external_data=False).graph.node
    return any(node.op_type == "Softmax" for node in nodes)
