"""Networks: where they come from, their checkpoints, and what they give back."""

from debride.models.outputs import Task, logits, probabilities, task_of
from debride.models.registry import model_sources, register_model_source
from debride.models.spec import CUSTOM, ModelSpec, build

__all__ = [
    "CUSTOM",
    "ModelSpec",
    "Task",
    "build",
    "logits",
    "model_sources",
    "probabilities",
    "register_model_source",
    "task_of",
]
