"""The user's checkpoints: read without running code, unwrapped, and fitted with clear errors."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.registry import first_line
from debride.models.spec import CUSTOM, ModelSpec, build

T = TypeVar("T")

_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network"),
    # running averages, where nothing else is there
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema"),
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_NOT_WEIGHTS = ("criterion.", "loss.", "loss_fn.", "loss_function.", "n_averaged")
_NUMBERS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
_EXPORT = (
    "where it was made, run torch.save(model.state_dict(), 'weights.pt') or "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') and give that file"
)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, by name; no code in the file is run.

    Takes safetensors and ``torch.save`` files. Wrappers (``state_dict``, ``model_state_dict``,
    ``model``, ``net``, Lightning's, averages such as ``model_ema`` where there is nothing else) and
    prefixes that all names share (``module.``, ``model.``, ``_orig_mod.``) are taken off, losses
    that Lightning saves beside the network left out.

    Raises
    ------
    DebrideError
        When there is no such file, it is damaged, would need code to be run, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise DebrideError(f"no checkpoint '{path}': give --weights an existing file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(content, path)
    return _strip({name: t for name, t in state.items() if not name.startswith(_NOT_WEIGHTS)})


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Load a checkpoint into a network; all of it must fit.

    Parameters
    ----------
    where
        What to call the checkpoint in errors.

    Raises
    ------
    DebrideError
        Naming the first tensors that are missing, too many, or of another shape; the network is
        untouched then.

    Examples
    --------
    >>> load_state(nn.Linear(2, 3), {"weight": torch.zeros(4, 2)}, where="head.pt")
    Traceback (most recent call last):
    ...
    debride.errors.DebrideError: head.pt does not fit Linear: 'bias' is missing from it;
    'weight' is (4, 2), the network has (3, 2): ...
    """
    expected = model.state_dict()
    plain = _strip({name: name for name in expected})
    own = _beneath(_strip(state), plain)
    given = {plain.get(name, name): tensor for name, tensor in own.items()}
    # Batch norm's counter is missing from old checkpoints and changes no output.
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            given.setdefault(name, tensor)
    problems = _differences(expected, given)
    if problems:
        raise DebrideError(
            f"{where} does not fit {type(model).__name__}: {problems}: give the network, number of "
            "classes, channels and image size that it was trained with"
        )
    model.load_state_dict(given)


def infer_fit(state: Mapping[str, Tensor], spec: ModelSpec, *, trust: bool = False) -> ModelSpec:
    """Read the number of outputs and input channels off a checkpoint, where it shows them.

    The network is built on the meta device with other numbers; the tensors whose shape follows
    are looked up in the checkpoint.

    Examples
    --------
    >>> spec = ModelSpec(source="torchvision:resnet18", outputs=2, channels=3, spatial=(64, 64))
    >>> state = build(spec.model_copy(update={"outputs": 7, "channels": 1})).state_dict()
    >>> fit = infer_fit(state, spec)
    >>> fit.outputs, fit.channels
    (7, 1)
    """
    prefix, _, _ = spec.source.partition(":")
    if spec.source == CUSTOM or (not trust and prefix not in ("torchvision", "timm", "monai")):
        return spec
    found: dict[str, int] = {}
    base = _shapes(spec, trust)
    plain = _beneath(_strip(state), base)
    for field, other in (("outputs", spec.outputs + 11), ("channels", spec.channels + 11)):
        try:
            changed = _shapes(spec.model_copy(update={field: other}), trust)
        except DebrideError:
            continue
        for name, shape in base.items():
            if name not in plain or plain[name].dim() != len(shape):
                continue
            dims = [d for d, (a, b) in enumerate(zip(shape, changed[name], strict=True)) if a != b]
            if len(dims) == 1 and (value := _scaled(shape, changed[name], dims[0], plain[name])):
                found.setdefault(field, value)
    return spec.model_copy(update=found)


def _scaled(
    shape: tuple[int, ...], changed: tuple[int, ...], dim: int, tensor: Tensor
) -> int | None:
    """Give the stored size where the size is the number itself, not a multiple of it."""
    if changed[dim] - shape[dim] != 11:
        return None
    rest = [d for d in range(len(shape)) if d != dim]
    same = all(tensor.shape[d] == shape[d] for d in rest)
    return int(tensor.shape[dim]) if same else None


def _shapes(spec: ModelSpec, trust: bool) -> dict[str, tuple[int, ...]]:
    model = build(spec, device="meta", trust=trust)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return _strip(shapes)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DebrideError(
            f"'{path}' is not a safetensors file ({first_line(error)}): {_EXPORT}"
        ) from None
    return tensors


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript, which is an error here
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or "GLOBAL" in str(error):
            # torch's own text goes on to recommend running the code
            known = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({known[1]})" if known else ""
            raise DebrideError(
                f"'{path}' holds Python objects{what}, not only weights, and reading it would run "
                f"its code: {_EXPORT}"
            ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError, AttributeError):
        if _is_torchscript(path):
            raise DebrideError(
                f"'{path}' is TorchScript, a program with its weights: where it was made, run "
                "torch.save(torch.jit.load(...).state_dict(), 'weights.pt') and give that file"
            ) from None
    raise DebrideError(
        f"'{path}' is damaged, cut off, or no PyTorch file: copy it again from where it was made, "
        "or there save its state dict"
    )


def _numpy_scalars() -> list[Any]:
    """List what makes a NumPy number (a metric beside the weights) out of a file: data alone."""
    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(name)) for name in _NUMBERS]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *types]


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): value for name, value in content.items()}
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), 0
        )
        if inner == 0:
            tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
            if tensors and any("." in name for name in tensors):
                return tensors
            break
        content = inner
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
    what = f"a dict with {keys or 'nothing in it'}" if keys or isinstance(content, Mapping) else ""
    raise DebrideError(
        f"'{path}' holds no weights by name but {what or type(content).__name__}: {_EXPORT}"
    )


def _strip(named: Mapping[str, T]) -> dict[str, T]:
    """Take off the prefixes that all names share."""
    names = dict(named)
    while names:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _beneath(given: Mapping[str, T], names: Mapping[str, Any]) -> dict[str, T]:
    """Give what lies under the prefix that a network's names have, where other tensors do not.

    Lightning saves metrics and losses with weights beside ``model.``.
    """
    wanted = {name for name in names if not name.endswith("num_batches_tracked")}
    first = min(wanted, default="")
    found = [name.removesuffix(first) for name in given if name.endswith("." + first)]
    whole = [prefix for prefix in found if all(prefix + name in given for name in wanted)]
    if not first or first in given or not whole:
        return dict(given)
    prefix = min(whole, key=lambda each: (each not in _PREFIXES, len(each)))
    return {
        name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)
    }


def _differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Name the first tensors that differ, of each kind at most three."""
    missing = [name for name in expected if name not in given]
    surplus = [name for name in given if name not in expected]
    shapes = [
        f"'{name}' is {tuple(given[name].shape)}, the network has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    parts = []
    if missing:
        parts.append(f"{_first(missing)} missing from it")
    if surplus:
        parts.append(f"{_first(surplus)} unknown to the network")
    parts += shapes[:3]
    if len(shapes) > 3:
        parts.append(f"and {len(shapes) - 3} more shapes differ")
    return "; ".join(parts)


def _first(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    rest = len(names) - 3
    return shown + (f" and {rest} more are" if rest > 0 else " are" if len(names) > 1 else " is")
