"""Where images can come from: one opener for each scheme, file suffix, or folder.

Write your own: a module with one function from the rest of the specification and the options
to an :class:`~debride.data.images.ImageSource`, under ``@register_source("name")`` for
``name:rest`` or ``@register_source(".suffix")`` for a file. Import it before the first run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.data.images import ImageSource

FOLDER = "/"
_BUILT_IN = ("folders", "manifest", "npz", "medmnist", "phantom")
_OPENERS: dict[str, Opener] = {}


@dataclass(frozen=True)
class OpenOptions:
    """What every opener is told besides the specification."""

    skip_bad: bool = False
    seed: int = 0


Opener = Callable[[str, OpenOptions], "ImageSource"]


def register_source(key: str) -> Callable[[Opener], Opener]:
    """Register the opener of a scheme (``"phantom"``), a suffix (``".npz"``) or folders (``"/"``).

    Examples
    --------
    >>> @register_source("nothing")
    ... def open_nothing(rest, options):
    ...     raise NotImplementedError
    >>> _ = _OPENERS.pop("nothing")
    """

    def add(opener: Opener) -> Opener:
        if key in _OPENERS:
            raise ValueError(f"an image source is already registered for '{key}'")
        _OPENERS[key] = opener
        return opener

    return add


def open_with(spec: str, options: OpenOptions) -> ImageSource:
    """Open `spec` with whichever opener is registered for it.

    Raises
    ------
    DebrideError
        When there is no such file or folder, or nothing can read it.
    """
    opener, rest = opener_of(spec)
    return opener(rest, options)


def opener_of(spec: str) -> tuple[Opener, str]:
    """Return the opener that is registered for `spec`, and what it is to open; nothing is read.

    Raises
    ------
    DebrideError
        When there is no such file or folder, or nothing can read it.
    """
    if not spec.strip():
        raise DebrideError("no images are named: give --data a folder, a file, or 'phantom'")
    for module in _BUILT_IN:
        importlib.import_module(f"debride.data.{module}")
    path = Path(spec).expanduser()
    scheme, _, rest = spec.partition(":")
    named = scheme in _OPENERS and not scheme.startswith((".", FOLDER))
    if named and (":" in spec or not path.exists()):
        return _OPENERS[scheme], rest
    if not path.exists():
        schemes = ", ".join(f"'{key}'" for key in sorted(_OPENERS) if key[0] not in f".{FOLDER}")
        raise DebrideError(
            f"no file or folder '{spec}': give a folder with train/<class>/*, a .csv manifest, "
            f"a .npz file, or one of the schemes {schemes}"
        )
    if path.is_dir():
        return _OPENERS[FOLDER], str(path)
    name = path.name.lower()
    suffix = max((s for s in _OPENERS if s[0] == "." and name.endswith(s)), key=len, default=None)
    if suffix is None:
        known = ", ".join(sorted(key for key in _OPENERS if key.startswith(".")))
        raise DebrideError(
            f"'{spec}' is of a kind that Debride does not read as a data set: "
            f"give a folder with train/<class>/* or a file of one of the kinds {known}"
        )
    return _OPENERS[suffix], str(path)
