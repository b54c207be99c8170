"""Surgery: cut what a plan does not keep, for real or as a mask."""

from debride.surgery.removal import apply, narrow

__all__ = ["apply", "narrow"]
