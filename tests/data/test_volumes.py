from pathlib import Path

import numpy as np
import pytest

from debride.data.preprocessing import Preprocessing
from debride.data.volumes import look_at_volume, read_nifti
from debride.errors import DebrideError

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel, of the extra 'medical'")


def stored(path: Path, pixels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4) if affine is None else affine), path)
    return path


def test_axes_are_those_of_dicom_however_the_file_has_them(tmp_path: Path) -> None:
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)  # D, H, W
    left_back = stored(tmp_path / "a.nii", volume.T, np.diag([-1.0, -1.0, 1.0, 1.0]))
    right_front = stored(tmp_path / "b.nii.gz", volume.T[::-1, ::-1])
    sagittal = np.zeros((4, 4))  # stored as z, x, y
    sagittal[2, 0], sagittal[0, 1], sagittal[1, 2], sagittal[3, 3] = 1, -1, -1, 1
    swapped = stored(tmp_path / "c.nii", volume.T.transpose(2, 0, 1), sagittal)
    for path in (left_back, right_front, swapped):
        assert np.array_equal(read_nifti(path), volume)
    assert look_at_volume(swapped) == (1, (2, 3, 4), None)


def test_a_slice_and_colours(tmp_path: Path) -> None:
    one = stored(tmp_path / "one.nii", np.zeros((4, 3, 1), np.uint8))
    assert look_at_volume(one).spatial == (3, 4)
    colour = stored(tmp_path / "colour.nii", np.zeros((4, 3, 2, 3), np.uint8))
    assert look_at_volume(colour) == (3, (2, 3, 4), None)


def test_values_are_scaled_by_their_kind(tmp_path: Path) -> None:
    plain = Preprocessing(spatial=(2, 2, 2), channels=1, mean=(0.0,), std=(1.0,))
    for kind, value, expected in (
        (np.uint8, 51, 0.2),
        (">u2", 13107, 0.2),
        (np.float32, 0.2, 0.2),
    ):
        path = stored(tmp_path / "x.nii", np.full((2, 2, 2), value, kind))
        assert float(plain.read(path).mean()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.full((2, 2, 2), -1000, np.int16), "holds int16 from -1000 to -1000: store it as"),
        (np.full((2, 2, 2), 7, np.float32), "holds float32 from 7 to 7"),
        (np.zeros((2, 2, 2, 20), np.uint8), r"has the shape \(2, 2, 2, 20\): give a volume"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, pixels: np.ndarray, said: str) -> None:
    with pytest.raises(DebrideError, match=said):
        read_nifti(stored(tmp_path / "x.nii", pixels))


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(DebrideError, match=r"cannot read the image '.*x\.nii\.gz': ") as error:
        read_nifti(tmp_path / "x.nii.gz")
    assert "\n" not in str(error.value)
