"""Options of methods and criteria: ``key=value`` texts as values of the kind that each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from debride.errors import DebrideError

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Sequence: "several, with commas",
}

_EXAMPLES = {
    "--option": "--option n_steps=50",
    "--limit": "--limit balanced_accuracy=0.02,0.05",
}


def pairs_of(options: Sequence[str], flag: str = "--option") -> dict[str, str]:
    """Cut ``key=value`` texts in two.

    Examples
    --------
    >>> pairs_of(["n_steps=50", "baseline=blur"])
    {'n_steps': '50', 'baseline': 'blur'}
    """
    pairs = {}
    for text in options:
        key, sign, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key or not value.strip():
            raise DebrideError(f"{flag} '{text}' is not KEY=VALUE, as in {_EXAMPLES[flag]}")
        if key in pairs:
            raise DebrideError(f"{flag} {key} is given twice: choose one")
        pairs[key] = value.strip()
    return pairs


def values_of(owner: str, pairs: Mapping[str, str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read every text as what its owner takes; without a kind, as what it looks like.

    Examples
    --------
    >>> values_of("ig", {"n_steps": "16"}, {"n_steps": int})
    {'n_steps': 16}
    """
    return {key: value_of(owner, key, text, kinds.get(key, Any)) for key, text in pairs.items()}


def value_of(method: str, key: str, text: str, kind: Any) -> Any:
    """Read an option's text as what the method takes."""
    adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    for candidate in (parsed(text), text):
        try:
            value = adapter.validate_python(candidate, strict=True)
        except ValidationError:
            continue
        if isinstance(value, str) and key == "baseline" and value not in ("zero", "mean", "blur"):
            raise DebrideError(
                f"--option baseline={text} is not one of zero (black), mean, blur, or a grey of "
                "0 to 1"
            )
        return value
    raise DebrideError(f"--option {key}={text} does not fit: {method} takes {_kind(kind)}")


def _kind(kind: Any) -> str:
    """Say in words what an option takes."""
    if get_origin(kind) is Annotated:
        kind, limit = get_args(kind)
        return f"{_kind(kind)} of {limit.metadata[0].ge} or more"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    known = [WORDS.get(get_origin(part) or part) for part in parts]
    return " or ".join(word for word in known if word is not None) or "something else"


def parsed(text: str) -> Any:
    """Read a text as a whole number, a number, true or false, several of them, or itself.

    Examples
    --------
    >>> parsed("5"), parsed("0.5"), parsed("true"), parsed("1,2"), parsed("blur")
    (5, 0.5, True, (1, 2), 'blur')
    """
    if "," in text:
        return tuple(parsed(part.strip()) for part in text.split(","))
    if text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
