"""Reads the value of a flag, from a command line (text) or from ``imagebeam.yaml`` (what YAML made of it)."""

import datetime as dt
import math
import re
from collections.abc import Callable
from typing import Any, Final

from imagebeam.pipeline.flags.classify import Flag, Kind
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.sql import filters

_TRUE: Final = {"true": True, "false": False}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def from_text(flag: Flag, text: str, *, where: str) -> Any:
    """The value of a flag.

    Args:
        flag: The flag.
        text: What the person wrote.
        where: What to call it in a message: ``--limit``, or ``limit in imagebeam.yaml``.

    Raises:
        UserError: The text is no value of this flag.
    """
    stripped = text.strip()
    if not stripped:
        raise UserError(f"{where} is empty{_such_as(flag)}")
    return _READERS[flag.kind](flag, stripped, where)


def from_yaml(flag: Flag, value: object, *, where: str) -> Any:
    """The value of a flag from a file, where lists and mappings may be YAML's own.

    Raises:
        UserError: The value is none of this flag.
    """
    return from_text(flag, _as_text(flag, value, where), where=where)


def to_text(flag: Flag, value: Any) -> str:
    """A value as a person writes it on the command line: what ``from_text`` reads back."""
    if flag.kind is Kind.PAIRS:
        return ",".join(f"{name}={path}" for name, path in value.items())
    if isinstance(value, tuple):
        return ",".join(to_text(flag, part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)


def _as_text(flag: Flag, value: object, where: str) -> str:
    if isinstance(value, dict) and flag.kind is Kind.PAIRS:
        return ",".join(f"{name}={path}" for name, path in value.items())
    if isinstance(value, list) and flag.kind in {Kind.NAMES, Kind.PAIRS, Kind.BOX, Kind.CIRCLE}:
        return ",".join(_as_text(flag, part, where) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value)
    raise UserError(f"{where} takes {flag.kind.value}, not a {type(value).__name__}{_such_as(flag)}")


def _text(flag: Flag, text: str, where: str) -> str:
    if flag.choices and text not in flag.choices:
        hint = suggestion(text, flag.choices)
        raise UserError(f"{where} takes {', '.join(flag.choices)}, not {text!r}{hint}")
    if flag.pattern and not re.fullmatch(flag.pattern, text):
        raise UserError(f"{where} takes {flag.form}, not {text!r}")
    return text


def _integer(flag: Flag, text: str, where: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"{where} takes {_bounds(flag)}, not {text!r}") from None
    _check_bounds(flag, value, text, where)
    return value


def _number(flag: Flag, text: str, where: str) -> float:
    value = _float(text)
    if value is None:
        raise UserError(f"{where} takes {_bounds(flag)}, not {text!r}")
    _check_bounds(flag, value, text, where)
    return value


def _boolean(_: Flag, text: str, where: str) -> bool:
    if text.lower() not in _TRUE:
        raise UserError(f"{where} takes true or false, not {text!r}")
    return _TRUE[text.lower()]


def _names(flag: Flag, text: str, where: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not re.fullmatch(flag.pattern or _NAME, name):
            raise UserError(f"{where} takes {flag.form or flag.kind.value}, not {name!r}{_such_as(flag)}")
    return tuple(dict.fromkeys(names))


def _pairs(flag: Flag, text: str, where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, path = (piece.strip() for piece in part.partition("="))
        if not (equals and _NAME.fullmatch(name) and path):
            raise UserError(f"{where} takes {flag.kind.value}, not {part.strip()!r}{_such_as(flag)}")
        if name in pairs:
            raise UserError(f"{where} gives {name} twice: {pairs[name]!r} and {path!r}")
        pairs[name] = path
    return pairs


def _box(_: Flag, text: str, where: str) -> tuple[float, float, float, float]:
    return filters.parse_bbox(text, where=where)


def _circle(_: Flag, text: str, where: str) -> tuple[float, float, float]:
    return filters.parse_near(text, where=where)


def _time(_: Flag, text: str, where: str) -> str:
    try:
        moment = filters.instant(text, where=where)
    except OverflowError:
        raise UserError(f"{where}={text!r} is outside of the years 1 to 9999") from None
    return moment.isoformat().replace("+00:00", "Z")


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_bounds(flag: Flag, value: float, text: str, where: str) -> None:
    low, high = flag.minimum, flag.maximum
    too_small = low is not None and (value <= low if flag.above else value < low)
    if too_small or (high is not None and value > high):
        raise UserError(f"{where} takes {_bounds(flag)}, not {text}")


def _bounds(flag: Flag) -> str:
    low = "" if flag.minimum is None else f"{'above' if flag.above else 'from'} {flag.minimum:g}"
    high = "" if flag.maximum is None else f"{'up to' if flag.above or not low else 'to'} {flag.maximum:g}"
    if low and not high and not flag.above:
        high = "up"
    return " ".join(part for part in (flag.kind.value, low, high) if part)


def _such_as(flag: Flag) -> str:
    return f"; for example {flag.example}" if flag.example else ""


_READERS: Final[dict[Kind, Callable[[Flag, str, str], Any]]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.NAMES: _names,
    Kind.PAIRS: _pairs,
    Kind.BOX: _box,
    Kind.CIRCLE: _circle,
    Kind.TIME: _time,
}
