"""Volumes in NIfTI files, where an image is read by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from debride.data.checks import Look
from debride.data.images import Array
from debride.errors import DebrideError

NIFTI = (".nii", ".nii.gz")


def is_nifti(path: Path) -> bool:
    """Tell NIfTI by its suffix.

    Examples
    --------
    >>> is_nifti(Path("scan.NII.gz")), is_nifti(Path("scan.gz"))
    (True, False)
    """
    return path.name.lower().endswith(NIFTI)


def read_nifti(path: Path) -> Array:
    """Read a volume as (D, H, W), colour last; a single slice as (H, W).

    The axes are those of DICOM, whatever the file's: slices from the feet to the head, rows to
    the back, columns to the patient's left. Values are taken as stored: 8 and 16 bits without a
    sign, or fractions between 0 and 1. NIfTI has no range that others could be scaled by.

    Raises
    ------
    DebrideError
        Without nibabel, for a damaged file, a time series, or other values.
    """
    try:
        import nibabel
    except ImportError as error:
        raise DebrideError(
            f"cannot read '{path}': NIfTI needs nibabel, pip install 'debride[medical]'"
        ) from error
    try:
        volume = nibabel.as_closest_canonical(nibabel.load(path))
        pixels = np.asarray(volume.dataobj)
    except Exception as error:  # readers raise whatever they like on a broken file
        reason = str(error).replace(str(path), "").strip(" '\"") or type(error).__name__
        raise DebrideError(f"cannot read the image '{path}': {reason.splitlines()[0]}") from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        raise DebrideError(
            f"'{path}' has the shape {pixels.shape}: give a volume (x, y, z), or with 3 colours"
        )
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    _check_values(pixels, path)
    # canonical axes run to the right, the front and the head
    turned = pixels[::-1, ::-1].swapaxes(0, 2)
    return np.ascontiguousarray(turned[0] if len(turned) == 1 else turned)


def look_at_volume(path: Path) -> Look:
    """Read a volume, to see whether it can be read at all.

    Raises
    ------
    DebrideError
        As `read_nifti` does.
    """
    pixels = read_nifti(path)
    colour = pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
    channels = pixels.shape[-1] if colour else 1
    return Look(channels, pixels.shape[:-1] if colour else pixels.shape, None)


def _check_values(pixels: Array, path: Path) -> None:
    fractions = pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1
    if not fractions and pixels.dtype not in (np.uint8, np.uint16):
        raise DebrideError(
            f"'{path}' holds {pixels.dtype} from {pixels.min():g} to {pixels.max():g}: store it "
            "as the network was trained, in 8 or 16 bits without a sign or as fractions from 0 to 1"
        )
