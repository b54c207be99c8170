"""How settings are described, merged and checked: flags over a YAML file over the defaults.

The settings of each command stand in `debride.settings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from debride.errors import DebrideError


def _split(value: object) -> object:
    """Turn ``"0.5, 0.25"`` into a list; a single number into a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_split)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


def _pairs(value: object) -> object:
    """Turn a mapping, or one text, into texts ``"key=value"``; a list within becomes ``1,2``."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        texts = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in value.items()}
        return [f"{key}={text}" for key, text in texts.items()]
    return value


Pairs = Annotated[tuple[str, ...], BeforeValidator(_pairs)]


def option(
    default: Any,
    help: str,
    *,
    panel: str,
    metavar: str,
    shown: str | None = None,
    many: bool = False,
    positional: bool = False,
    **limits: Any,
) -> Any:
    """Describe a setting: its default, its line of help, its group and what it takes.

    Parameters
    ----------
    default
        The default; ``...`` for a setting that must be given.
    help
        One line for ``--help``, units included.
    panel
        The group of flags it is shown in.
    metavar
        What the flag takes, such as ``FILE``.
    shown
        The default in words, where the value itself says too little.
    many
        The flag may be given again and again.
    positional
        On the command line it stands without a flag.
    limits
        Passed to `pydantic.Field`, for example ``ge=1``.
    """
    extra: dict[str, Any] = {"panel": panel, "metavar": metavar, "shown": shown}
    extra |= {"many": many, "positional": positional}
    return Field(default, description=help, json_schema_extra=extra, **limits)


class Settings(BaseModel):
    """What every command takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=False)

    seed: int = option(
        0, "Seed of every random choice.", panel="Run", metavar="INTEGER", ge=0, lt=2**31
    )
    device: str = option(
        "auto",
        "Where to compute: auto, cpu, cuda, cuda:1 or mps.",
        panel="Run",
        metavar="DEVICE",
    )

    @classmethod
    def resolve(cls, flags: Mapping[str, Any], config: Path | None = None) -> Self:
        """Merge flags over a YAML file over the defaults.

        Raises
        ------
        DebrideError
            For a file that cannot be read, an unknown key, or a value of the wrong kind.

        Examples
        --------
        >>> Settings.resolve({"seed": "3", "device": None})
        Settings(seed=3, device='auto')
        """
        from_file = _from_file(config, cls) if config is not None else {}
        given = {name: value for name, value in flags.items() if value not in (None, [])}
        try:
            return cls.model_validate({**from_file, **given})
        except ValidationError as error:
            raise DebrideError(_sentence(error, cls, given, config)) from None


class _Loader(yaml.SafeLoader):
    """Refuses what `yaml.safe_load` drops: the first of two equal keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"'{key.value}' stands there twice: call one otherwise",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return node


def load_yaml(text: str) -> Any:
    """Give what a YAML text says: plain types alone, no key twice.

    Raises
    ------
    yaml.YAMLError
        For a text that is not YAML, or has a key twice.

    Examples
    --------
    >>> load_yaml("macs: 0.5")
    {'macs': 0.5}
    """
    return yaml.load(text, _Loader)  # a SafeLoader


def read_yaml(path: Path, flag: str) -> dict[str, Any]:
    """Read a YAML file of names and values.

    Raises
    ------
    DebrideError
        When it cannot be read or holds something else; `flag` is the one that names the file.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DebrideError(f"no file '{path}': give {flag} an existing YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DebrideError(f"cannot read '{path}': {error}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DebrideError(f"'{path}' is not YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise DebrideError(f"'{path}' must hold lines of 'name: value', as in 'macs: 0.5'")
    return {str(name): value for name, value in content.items()}


def _from_file(path: Path, settings: type[Settings]) -> dict[str, Any]:
    known = settings.model_fields
    values = {}
    for key, value in read_yaml(path, "--config").items():
        name = key.replace("-", "_")
        name = name if name in known else {"from": "from_"}.get(name, name)  # a word of Python's
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)})"
            raise DebrideError(f"'{path}' has an unknown key '{key}'{hint}")
        values[name] = value
    return values


def _sentence(
    error: ValidationError, cls: type[BaseModel], given: Mapping[str, Any], config: Path | None
) -> str:
    """Say the first thing that is wrong in one sentence."""
    missing = [flag_of(e["loc"][0]) for e in error.errors() if e["type"] == "missing"]
    if missing:
        return f"{' and '.join(missing)} must be given (as a flag, or in the file of --config)"
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    reason = (reason[0].lower() + reason[1:]).partition(", unable to")[0]
    name = str(first["loc"][0])
    where = flag_of(name) if name in given or config is None else f"'{name}' in '{config}'"
    return (
        f"{where} cannot be '{first['input']}': {reason}{_share_meant(cls, name, first['input'])}"
    )


def _share_meant(cls: type[BaseModel], name: str, value: Any) -> str:
    """Say how a share is written, to those who gave per cent."""
    described = cls.model_fields[name].json_schema_extra if name in cls.model_fields else None
    if not isinstance(described, dict) or described.get("metavar") not in ("SHARE", "LOSS"):
        return ""
    text = str(value).strip().removesuffix("%")
    try:
        share = float(text) / 100
    except ValueError:
        return ""
    return f" (for {text} % write {share:g})" if 0 < share < 1 else ""


def flag_of(name: object) -> str:
    """Return the flag of a setting.

    Examples
    --------
    >>> flag_of("image_size"), flag_of("from_")
    ('--image-size', '--from')
    """
    return "--" + str(name).strip("_").replace("_", "-")
