"""MedMNIST by name, downloaded by its own package."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from pathlib import Path

from debride.data.images import ImageSource
from debride.data.npz import from_arrays, read_arrays
from debride.data.registry import OpenOptions, register_source
from debride.errors import DebrideError


@register_source("medmnist")
def open_medmnist(rest: str, options: OpenOptions) -> ImageSource:
    """Open ``medmnist:NAME`` (28 pixels) or ``medmnist:NAME@SIZE``, downloading it if need be.

    Raises
    ------
    DebrideError
        When the package is not installed, there is no such set or size, or the download fails.
    """
    name, _, size = rest.partition("@")
    try:
        package = importlib.import_module("medmnist")
    except ImportError as error:
        raise DebrideError(
            "'medmnist:' needs the medmnist package: pip install 'debride[medmnist]', or download "
            f"{name or 'NAME'}.npz from medmnist.com and give its path"
        ) from error
    if name not in package.INFO:
        raise DebrideError(f"MedMNIST has no '{name}': it has {', '.join(sorted(package.INFO))}")
    info = package.INFO[name]
    flag = "" if size in ("", "28") else f"_{size}"
    if f"url{flag}" not in info:
        sizes = ["28", *(key[4:] for key in info if key.startswith("url_"))]
        raise DebrideError(f"MedMNIST's '{name}' has no size '{size}': it has {', '.join(sizes)}")
    folder = Path.home() / ".medmnist"
    file = folder / f"{name}{flag}.npz"
    try:
        folder.mkdir(exist_ok=True)
        dataset = getattr(package, info["python_class"])
        # The package prints what it does, and standard output is for results.
        with contextlib.redirect_stdout(sys.stderr):
            dataset(split="val", download=True, root=str(folder), size=int(size or 28))
    except Exception as error:  # the package turns whatever went wrong into a RuntimeError
        raise DebrideError(
            f"cannot download '{file.name}': without a network, download it elsewhere from "
            f"{info[f'url{flag}']} and give the path of the file instead of 'medmnist:{rest}'"
        ) from error
    classes = [info["label"][str(index)] for index in range(len(info["label"]))]
    source = from_arrays(file.stem, read_arrays(file), classes)
    return dataclasses.replace(source, name=f"medmnist:{rest}")
