"""Recovery: what a network lost to surgery and can win back."""

from debride.recovery.batchnorm import recalibrate
from debride.recovery.registry import check_recovery, recover, recovery_names, register_recovery

__all__ = ["check_recovery", "recalibrate", "recover", "recovery_names", "register_recovery"]
