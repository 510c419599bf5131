"""Read the value of a setting from command-line text, YAML or Python."""

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from imagebeam.pipeline.flags.setting import Kind, Setting
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.sql import filters

_TRUE: Final = {"true": True, "false": False}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def read(setting: Setting, value: object, *, where: str) -> Any:
    """Read the value of a setting.

    Args:
        setting: The setting.
        value: Text, or a value of YAML or Python: lists and mappings are accepted where the setting has several parts.
        where: Its name in messages: ``--limit``, or ``limit in imagebeam.yaml``.

    Raises:
        UserError: The setting does not accept the value.
    """
    text = _as_text(setting, value, where).strip()
    if not text:
        raise UserError(f"{where} is empty{_such_as(setting)}")
    return _READERS[setting.kind or Kind.TEXT](setting, text, where)


def to_text(setting: Setting, value: Any) -> str:
    """Write a value as on a command line: what :func:`read` reads back."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={path}" for name, path in value.items())
    if isinstance(value, tuple | list):
        return ",".join(to_text(setting, part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def _as_text(setting: Setting, value: object, where: str) -> str:
    several = {Kind.NAMES, Kind.PAIRS, Kind.BOX, Kind.CIRCLE}
    if (
        isinstance(value, str | int | float | Decimal | dt.date | Path)
        or (isinstance(value, Mapping) and setting.kind is Kind.PAIRS)
        or (isinstance(value, list | tuple) and setting.kind in several)
    ):
        return to_text(setting, value)
    raise UserError(f"{where} takes {_expected(setting)}, not a {type(value).__name__}{_such_as(setting)}")


def _text(setting: Setting, text: str, where: str) -> str:
    if setting.choices and text not in setting.choices:
        hint = suggestion(text, setting.choices)
        raise UserError(f"{where} takes {', '.join(setting.choices)}, not {text!r}{hint}")
    if setting.pattern and not re.fullmatch(setting.pattern, text):
        raise UserError(f"{where} takes {setting.form}, not {text!r}")
    return text


def _number(setting: Setting, text: str, where: str) -> float:
    value: float | None
    try:
        value = int(text) if setting.kind is Kind.INTEGER else float(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        raise UserError(f"{where} takes {_expected(setting)}, not {text!r}")
    low, high = setting.minimum, setting.maximum
    too_small = low is not None and (value <= low if setting.above else value < low)
    if too_small or (high is not None and value > high):
        raise UserError(f"{where} takes {_expected(setting)}, not {text}")
    return value


def _boolean(_: Setting, text: str, where: str) -> bool:
    if text.lower() not in _TRUE:
        raise UserError(f"{where} takes true or false, not {text!r}")
    return _TRUE[text.lower()]


def _names(setting: Setting, text: str, where: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not re.fullmatch(setting.pattern or _NAME, name):
            raise UserError(f"{where} takes {setting.form or Kind.NAMES.value}, not {name!r}{_such_as(setting)}")
    return tuple(dict.fromkeys(names))


def _pairs(setting: Setting, text: str, where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, path = (piece.strip() for piece in part.partition("="))
        if not (equals and _NAME.fullmatch(name) and path):
            raise UserError(f"{where} takes {Kind.PAIRS.value}, not {part.strip()!r}{_such_as(setting)}")
        if name in pairs:
            raise UserError(f"{where} gives {name} twice: {pairs[name]!r} and {path!r}")
        pairs[name] = path
    return pairs


def _time(_: Setting, text: str, where: str) -> str:
    try:
        moment = filters.instant(text, where=where)
    except OverflowError:
        raise UserError(f"{where}={text!r} is outside of the years 1 to 9999") from None
    return moment.isoformat().replace("+00:00", "Z")


def _expected(setting: Setting) -> str:
    kind = setting.kind or Kind.TEXT
    low = "" if setting.minimum is None else f"{'above' if setting.above else 'from'} {setting.minimum:.15g}"
    high = "" if setting.maximum is None else f"{'up to' if setting.above or not low else 'to'} {setting.maximum:.15g}"
    if low and not high and not setting.above:
        high = "up"
    return " ".join(part for part in (kind.value, low, high) if part)


def _such_as(setting: Setting) -> str:
    return f"; for example {setting.example}" if setting.example else ""


_READERS: Final[Mapping[Kind, Callable[[Setting, str, str], Any]]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _number,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.NAMES: _names,
    Kind.PAIRS: _pairs,
    Kind.BOX: lambda _, text, where: filters.parse_bbox(text, where=where),
    Kind.CIRCLE: lambda _, text, where: filters.parse_near(text, where=where),
    Kind.TIME: _time,
}
