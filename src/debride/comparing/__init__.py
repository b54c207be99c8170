"""The work behind ``debride compare``: a grid of prunings, cell by cell, and what it says."""

from debride.comparing.running import compare

__all__ = ["compare"]
