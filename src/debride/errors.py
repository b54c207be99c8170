"""The one exception that Debride raises on purpose, and what helps where a name is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DebrideError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do.

    The command line prints it as one line and exits with code 2.

    Examples
    --------
    >>> raise DebrideError("no folder 'scans': give --data an existing folder")
    Traceback (most recent call last):
    ...
    debride.errors.DebrideError: no folder 'scans': give --data an existing folder
    """


def hint(name: object, known: Iterable[str]) -> str:
    """Return what is close to a name, or all that is known.

    Examples
    --------
    >>> hint("lpr", ["lrp", "ig"]), hint("?", ["lrp", "ig"])
    ("did you mean 'lrp'?", 'known: lrp, ig')
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"
