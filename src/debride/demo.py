"""The whole way in minutes, without images or a network of one's own: ``debride demo``."""

from __future__ import annotations

from debride import screens, workflow
from debride.settings import DemoSettings, PruneSettings, TrainSettings

DATA = "phantom"
MODEL = "timm:test_resnet"
EPOCHS = 10
RATE = 3e-3
MACS = 0.49
STEPS = 16


def run(settings: DemoSettings) -> None:
    """Train a small network on drawn radiographs, cut it, and show what changed."""
    base, half = settings.out / "base", settings.out / "half"
    common = {"data": DATA, "seed": settings.seed, "device": settings.device, "overwrite": True}
    screens.say("1 of 2", f"train {MODEL} on {DATA}")
    training = {**common, "model": MODEL, "epochs": EPOCHS, "lr": RATE, "out": base, "explain": 0}
    workflow.train(TrainSettings.resolve({**training, "speed": False}))
    screens.say("2 of 2", f"keep {MACS:.0%} of its multiply-accumulates")
    cutting = {**common, "model": str(base), "macs": MACS, "steps": STEPS, "out": half}
    workflow.prune(PruneSettings.resolve(cutting))
