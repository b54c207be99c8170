"""Relevance values as files: NumPy arrays, or NIfTI for viewers of volumes."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from torch import Tensor

from debride.errors import DebrideError

Kind = Literal["npy", "nifti", "none"]
SUFFIX = {"npy": ".npy", "nifti": ".nii.gz"}


def check_kind(kind: Kind) -> None:
    """Refuse what cannot be written here, before any work.

    Raises
    ------
    DebrideError
        For NIfTI without nibabel.
    """
    if kind == "nifti":
        _nibabel()


def encoded(relevance: Tensor, kind: Kind) -> bytes:
    """Give the content of a file of relevance (C, *spatial), float32.

    NIfTI has the axes of viewers: x, y, z, and channels last where there are several; x runs to
    the patient's left and y to the back, as in DICOM. Sizes are in prepared pixels. ITK reads a
    volume back as (D, H, W).
    """
    values = relevance.numpy().astype(np.float32, copy=False)
    if kind == "npy":
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        return buffer.getvalue()
    nibabel = _nibabel()
    spatial = values if values.ndim == 4 else values[:, None]
    axes = spatial.transpose(3, 2, 1, 0)
    axes = axes[..., 0] if axes.shape[-1] == 1 else axes
    made: bytes = _gzip(nibabel.Nifti1Image(axes, np.diag([-1.0, -1.0, 1.0, 1.0])).to_bytes())
    return made


def _gzip(content: bytes) -> bytes:
    import gzip

    # no time stamp: the same values are the same file
    return gzip.compress(content, mtime=0)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise DebrideError(
            "--raw nifti needs nibabel: pip install 'debride[medical]', or give --raw npy"
        ) from error
    return nibabel
