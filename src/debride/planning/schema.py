"""The form of a plan file: what every plan is checked against, and what is published.

``debride plan schema`` writes it as JSON Schema; ``docs/plan.schema.json`` is that text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from debride.errors import DebrideError
from debride.planning.plan import MOST_UNITS, SCHEMA_VERSION, Kind, Side

Count = Annotated[int, Field(ge=0)]
Position = Annotated[int, Field(ge=0, le=MOST_UNITS)]
Size = Annotated[int, Field(ge=1, le=MOST_UNITS)]
RANGES = "^[0-9]{1,9}(-[0-9]{1,9})?([ ,]+[0-9]{1,9}(-[0-9]{1,9})?)*$"


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CostForm(_Form):
    """What one image costs."""

    macs: Count = Field(description="Multiply-accumulates.")
    params: Count = Field(description="Elements of all parameters.")
    bytes: Count = Field(description="Of all parameters and buffers, as stored.")


class CostsForm(_Form):
    """The network before the cut and after it."""

    before: CostForm
    after: CostForm = Field(description="Recomputed when the plan is applied.")


class GroupForm(_Form):
    """Units that are cut together, and those of them that stay."""

    name: str = Field(description="Of the first layer that makes these units.")
    kind: Kind
    units: Size = Field(description="How many there are before the cut.")
    keep: str = Field(
        description="Units that stay, in rising order from 0, single or as ranges: '0-2 5'.",
        json_schema_extra={"pattern": RANGES},  # `read_ranges` says better what is wrong
    )
    taps: list[tuple[str, str]] = Field(
        description="[layer that shows these units, module whose output shows their relevance; "
        "MODULE@input where its input does]"
    )
    members: list[
        tuple[str, Side, Position, Size] | tuple[str, Side, Position, Size, Size, Size]
    ] = Field(
        description="[module or parameter that stands in none, side, offset, block]: unit u lies "
        "at the positions offset + u * block to offset + (u + 1) * block - 1 of that side of it. "
        "With [..., repeat, stride] it lies there again, repeat times in all, stride further each "
        "time.",
    )


class PlanForm(_Form):
    """What every group of coupled units keeps, in indices of the uncut network."""

    schema_version: int = Field(ge=1, le=SCHEMA_VERSION)
    fingerprint: str = Field(
        description="SHA-256 over the names and shapes of the uncut network's tensors."
    )
    cost: CostsForm
    made_by: dict[str, Any] = Field(
        default_factory=dict,
        description="The choices that led here, for the reader; 'weights' is a SHA-256 over the "
        "values of the uncut network's tensors.",
    )
    groups: list[GroupForm]


def plan_schema() -> str:
    """Return the JSON Schema (2020-12) of a plan file, as text.

    Examples
    --------
    >>> json.loads(plan_schema())["required"]
    ['schema_version', 'fingerprint', 'cost', 'groups']
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= PlanForm.model_json_schema()
    schema["title"] = "A plan of Debride"
    return json.dumps(schema, indent=1) + "\n"


def check_form(text: str, data: Mapping[str, Any]) -> None:
    """Raise a sentence that names the first place where a plan has not the published form.

    Parameters
    ----------
    text, data
        The plan as it was written, and as `json` reads it.
    """
    try:
        PlanForm.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise DebrideError(f"the plan is damaged: {_place(data, first['loc'])}: {reason}") from None


def _place(data: Mapping[str, Any], where: tuple[int | str, ...]) -> str:
    """Name a place in the file as a reader would look for it."""
    where = tuple(part for part in where if "[" not in str(part))  # which form of a union
    if len(where) > 2 and where[0] == "groups" and isinstance(where[1], int):
        group = data["groups"][where[1]]
        name = group.get("name") if isinstance(group, dict) else None
        return f"group '{name or where[1]}', {'.'.join(map(str, where[2:]))}"
    return ".".join(map(str, where))
