"""The work behind ``debride plan``: plans on the screen, as a picture, and side by side."""

from debride.reviewing.comparing import diff
from debride.reviewing.showing import schema, show

__all__ = ["diff", "schema", "show"]
