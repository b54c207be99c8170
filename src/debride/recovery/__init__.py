"""Recovery: what a network lost to surgery and can win back."""

from debride.recovery import batchnorm, least_squares, reconstruction  # noqa: F401  (they register themselves)
from debride.recovery.batchnorm import recalibrate
from debride.recovery.registry import (
    Recovery,
    begin,
    check_recovery,
    recovery_names,
    register_recovery,
    tries,
)

__all__ = [
    "Recovery",
    "begin",
    "check_recovery",
    "recalibrate",
    "recovery_names",
    "register_recovery",
    "tries",
]
