"""A network as an ONNX file for onnxruntime, and the proof that it computes the same."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.evidence.state import frozen
from debride.models.outputs import first_tensor, logits
from debride.models.registry import first_line

INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-4
"""Largest difference allowed between ONNX and PyTorch, as a share of the largest output."""
LARGEST_FILE = 2_000_000_000
"""Bytes of weights that stay inside the file, which its format limits to 2 GiB."""


@dataclass(frozen=True)
class Parity:
    """How an ONNX file's outputs differ from those of the network it was made from.

    Attributes
    ----------
    images
        How many were compared.
    max_abs
        Largest absolute difference of any output.
    relative
        `max_abs` as a share of the largest absolute output of the network over these images.
    top1
        Share of decisions that agree: of images, of pixels where the network segments, of labels
        where several may hold together.
    """

    images: int
    max_abs: float
    relative: float
    top1: float

    @property
    def passed(self) -> bool:
        """Whether the outputs are equal but for rounding; never so where one is not finite."""
        return self.relative <= TOLERANCE


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: images in, outputs back, computed by onnxruntime on the CPU.

    Raises
    ------
    DebrideError
        When onnxruntime cannot read the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; its warnings speak of its own optimiser
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise DebrideError(f"onnxruntime cannot read '{path}': {first_line(error)}") from error

    def forward(self, images: Tensor) -> Tensor:
        """Compute the outputs for float32 images (B, C, ...)."""
        [output] = self.session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(output)


def check_installed() -> None:
    """Refuse to begin without the packages of the optional extra.

    Raises
    ------
    DebrideError
        Naming the command that installs them.
    """
    needed = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise DebrideError(f"exporting needs {' and '.join(missing)}: pip install 'debride[onnx]'")


def export_onnx(
    model: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    notes: Mapping[str, str] | None = None,
) -> int:
    """Write a network as ONNX in float32 with a batch size left open, by PyTorch's exporter.

    The file has one input ``image`` (batch, C, ...) and one output ``logits``: the first tensor
    that the network returns. Weights stand in the file itself up to 2 GB, beyond that in one
    file ``NAME.data`` beside it. Nothing of the machine (paths, stack traces) goes in.

    Parameters
    ----------
    model
        On any device; it is left as it is.
    example
        (B, C, *spatial); the first image is used.
    path
        A new file.
    notes
        Goes into the metadata of the file.

    Returns
    -------
    int
        The version of ONNX's operators that the file needs (opset).

    Raises
    ------
    DebrideError
        When the network cannot be exported with an open batch size, or an extra is missing.

    Examples
    --------
    >>> import tempfile
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval()
    >>> images = torch.randn(3, 1, 8, 8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     opset = export_onnx(net, images, f"{folder}/net.onnx")
    ...     found = compare(net, OnnxNetwork(f"{folder}/net.onnx"), [images])
    >>> found.images, found.top1, found.passed
    (3, 1.0, True)
    """
    check_installed()
    # A batch of one would be taken for a size that never changes.
    images = example[:1].detach().cpu().float().repeat(2, *[1] * (example.dim() - 1))
    try:
        exported = _one_output(copy.deepcopy(model).cpu().float().eval(), images)
        with silent(), torch.no_grad():
            program = torch.onnx.export(
                exported,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets in a stranger's network
        raise DebrideError(
            f"this {type(model).__name__} cannot be exported to ONNX with an open batch size: "
            f"{first_line(_root(error))}"
        ) from error
    assert program is not None
    graph = program.model
    _forget_the_machine(graph)
    graph.metadata_props.update(notes or {})
    weights = [value.const_value for value in graph.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    program.save(str(path), external_data=size > LARGEST_FILE)
    return int(graph.opset_imports[""])


def compare(
    model: nn.Module, network: OnnxNetwork, batches: Iterable[Tensor], *, multilabel: bool = False
) -> Parity:
    """Run a network and its ONNX file on the same images and compare the outputs.

    Parameters
    ----------
    model
        On the CPU, in float32; it comes back as it was.
    batches
        Images (B, C, ...), float32.
    multilabel
        Each output decides for itself, whether it is above 0.
    """
    images, largest, difference, agreeing, decisions = 0, 0.0, 0.0, 0, 0
    with frozen(model), torch.no_grad():
        for batch in batches:
            expected, given = _answer(model(batch)).double(), network(batch).double()
            images += len(batch)
            gap = (expected - given).abs().max()
            # NaN, unlike in max(), must not be forgotten
            difference = float(torch.maximum(gap, torch.tensor(difference)))
            largest = max(largest, float(expected.abs().max()))
            one, other = (_decisions(each, multilabel) for each in (expected, given))
            agreeing += int((one == other).sum())
            decisions += one.numel()
    if not images:
        raise DebrideError("there are no images to compare the ONNX file on")
    relative = difference / largest if largest else difference
    return Parity(images, difference, relative, agreeing / decisions)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what the tools print, warn and log off the screen, and logging as it was.

    What matters of it is in the error that they raise.
    """
    before = logging.root.handlers[:], logging.root.manager.disable
    # The root logger gets a handler for ever when something is logged and it has none.
    logging.root.handlers[:] = [logging.NullHandler()]
    logging.disable()
    nowhere = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.handlers[:], logging.root.manager.disable = before


def _decisions(output: Tensor, multilabel: bool) -> Tensor:
    return output > 0 if multilabel or output.shape[1] == 1 else output.argmax(dim=1)


def _answer(output: Any) -> Tensor:
    try:
        return logits(output)
    except DebrideError:  # a map rather than one row per image
        found = first_tensor(output)
        if found is None:
            raise
        return found


class _Answer(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _answer(self.network(images))


def _one_output(model: nn.Module, images: Tensor) -> nn.Module:
    """Give a network whose only output is the tensor of logits."""
    with torch.no_grad():
        output = model(images)
    return model if output is _answer(output) else _Answer(model)


def _root(error: BaseException) -> Any:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _forget_the_machine(graph: Any) -> None:
    """Remove the exporter's notes on every node: its stack traces name folders and files."""
    for scope in (graph.graph, *graph.functions.values()):
        scope.metadata_props.clear()
        scope.doc_string = None
        for node in scope.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*scope.inputs, *getattr(scope, "initializers", {}).values()):
            value.metadata_props.clear()
    graph.metadata_props.clear()
    graph.doc_string = None
