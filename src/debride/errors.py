"""The one exception that Debride raises on purpose."""


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
