"""How a cut network is trained at the end, for ``debride prune`` and ``apply``."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from debride.config import Settings, flag_of, option

PANEL = "Fine-tuning"


class FinetuneSettings(Settings):
    """How the cut network learns from the original."""

    finetune: int | None = option(
        None,
        "Passes over the training images, at most, in which the cut network learns to say what "
        "the original says; the weights that come nearest to it on the validation images are kept, "
        "or with --finetune-labels those of the best metric.",
        panel=PANEL,
        metavar="EPOCHS",
        shown="none",
        ge=1,
    )
    finetune_minutes: float | None = option(
        None,
        "About how long it learns, instead of --finetune: the passes that fit are measured first.",
        panel=PANEL,
        metavar="MINUTES",
        gt=0,
    )
    finetune_lr: float = option(
        5e-4,
        "Highest learning rate (warm-up, then cosine).",
        panel=PANEL,
        metavar="RATE",
        shown="0.0005",
        gt=0,
    )
    finetune_temperature: float = option(
        2.0,
        "What the outputs of both networks are divided by before they are compared.",
        panel=PANEL,
        metavar="NUMBER",
        gt=0,
    )
    finetune_labels: float = option(
        0.0,
        "Weight of the labels: 0 learns from the original alone, 1 from the labels alone.",
        panel=PANEL,
        metavar="WEIGHT",
        ge=0,
        le=1,
    )
    finetune_features: float = option(
        0.0,
        "Weight of reading the same features in the last layer.",
        panel=PANEL,
        metavar="WEIGHT",
        ge=0,
    )
    finetune_relevance: float = option(
        0.0,
        "Weight of looking at the same places (input times gradient); takes three times as long.",
        panel=PANEL,
        metavar="WEIGHT",
        ge=0,
    )

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if self.finetune is not None and self.finetune_minutes is not None:
            raise ValueError("--finetune and --finetune-minutes are both given: choose one")
        if self.finetune is None and self.finetune_minutes is None:
            for name, field in FinetuneSettings.model_fields.items():
                if name.startswith("finetune") and getattr(self, name) != field.default:
                    raise ValueError(
                        f"{flag_of(name)} is for fine-tuning: give --finetune or "
                        "--finetune-minutes too"
                    )
        return self
