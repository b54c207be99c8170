"""Files and folders that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from debride.errors import DebrideError

UNFINISHED = "resume.safetensors"
"""The file that an unfinished training is kept in."""

UNFINISHED_POINTS = "unfinished"
"""The folder that the steps of an unfinished pruning are kept in."""

POINTS = "points"
"""The folder that all networks of a finished search are kept in."""


def check_free(out: Path, overwrite: bool, source: str = "") -> None:
    """Refuse, before any work, to write where something else is or where nothing can be."""
    if source and Path(source).is_dir() and out.resolve() == Path(source).resolve():
        raise DebrideError(f"--out '{out}' is the folder of --model: give a new folder")
    if out.is_dir() and any(out.iterdir()):
        finished = (out / "model.json").exists()
        # a training, a pruning, or what debride evaluate wrote
        others = (UNFINISHED, UNFINISHED_POINTS, "evidence.json")
        if not finished and not any((out / name).exists() for name in others):
            raise DebrideError(
                f"'{out}' holds something that is not Debride's: give --out a new folder"
            )
        if finished and not overwrite:
            raise DebrideError(
                f"'{out}' holds a finished run: give another --out, or --overwrite to replace it"
            )
    elif out.exists() and not out.is_dir():
        raise DebrideError(f"'{out}' is a file: give --out a folder")
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".debride.", dir=existing)).rmdir()
    except OSError as error:
        raise DebrideError(
            f"cannot write in '{existing}' ({error.strerror}): give another --out"
        ) from None


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside `path`, then rename it.

    Raises
    ------
    DebrideError
        When the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    if path.is_dir():
        raise DebrideError(f"cannot write '{path}': it is a folder; name a file in it")
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        raise DebrideError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


@contextlib.contextmanager
def staged_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside `path` that takes its place when the block ends well.

    A folder that is already there is replaced only then; on any error, Ctrl-C included,
    it stays as it was and the staged one is removed.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise DebrideError(f"'{path}' is a file: give a folder to write to")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        stage.chmod(0o755 & ~_umask())
    except OSError as error:
        raise DebrideError(f"cannot write '{path}': {error.strerror or error}") from error
    try:
        yield stage
        for file in stage.rglob("*"):
            _flush(file)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old)
            stage.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            stage.replace(path)
    except OSError as error:
        raise DebrideError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name where the disk can, so that large ones are not stored twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _flush(file: Path) -> None:
    """Have the disk hold a file's content before its folder gets its name."""
    if file.is_file() and not file.is_symlink():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
