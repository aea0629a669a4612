"""Results as JSON's own types, on their way from dataclasses to files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, overload


@overload
def plain(value: Mapping[Any, Any]) -> dict[str, Any]: ...


@overload
def plain(value: Any) -> Any: ...


def plain(value: Any) -> Any:
    """``value`` in JSON's own types. A number that is not finite becomes None, half a character its escape.

    A dataclass becomes its fields in their order, unless it has a ``to_dict`` of its own. Arrays and scalars
    of numpy or torch go through their ``tolist``.

    Raises:
        TypeError: For anything JSON has no form for.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _whole_characters(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (dict, Mapping)):  # to ask for what is abstract takes long
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    for method in ("to_dict", "tolist"):
        if callable(convert := getattr(value, method, None)):
            return plain(convert())
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return _whole_characters(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"a JSON key must be a string or a whole number, not {key!r}")


def _whole_characters(text: str) -> str:
    """``text``, with the lone surrogates that stand for odd bytes in file names spelled out: no reader takes them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
