"""Rewrites of date and time functions. UTC is the only implemented time zone."""

from __future__ import annotations

import re
from typing import Final

from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.nodes import (
    Handler,
    Node,
    call,
    check_arguments,
    describe_node,
    invalid,
    not_implemented,
    string,
    to_call,
)

_SECONDS: Final = {
    "MICROSECOND": "to_microseconds",
    "MILLISECOND": "to_milliseconds",
    "SECOND": "to_seconds",
    "MINUTE": "to_minutes",
    "HOUR": "to_hours",
    "DAY": "to_days",
}


_CALENDAR: Final = _SECONDS | {
    "WEEK": "to_weeks",
    "MONTH": "to_months",
    "QUARTER": "to_quarters",
    "YEAR": "to_years",
}


_TRUNCATIONS: Final = (
    "MICROSECOND", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY", "ISOWEEK", "MONTH", "QUARTER", "YEAR",
)  # fmt: skip


_PARTS: Final = {
    "YEAR": "year", "MONTH": "month", "DAY": "day", "HOUR": "hour", "MINUTE": "minute", "SECOND": "second",
    "QUARTER": "quarter", "DAYOFYEAR": "doy", "ISOWEEK": "week", "ISOYEAR": "isoyear",
}  # fmt: skip


_FORMAT_ELEMENTS: Final = frozenset("aAbBdHIjmMpSfyY%")


def _unit(node: Node, known: dict[str, str]) -> str:
    unit = node.args.get("unit")
    name = unit.name.upper() if isinstance(unit, exp.Var | exp.Literal) else str(unit)
    if name not in known:
        raise invalid(f"{describe_node(node)} does not support the {name} date part")
    return known[name]


def _amount(value: Node) -> Node:
    """Return a number of units as a number: sqlglot keeps literals as strings."""
    if isinstance(value, exp.Literal) and value.is_string:
        return exp.cast(exp.Literal.number(value.name), "BIGINT", dialect="duckdb")
    return value


def _shift(sign: type[exp.Binary], known: dict[str, str], result: str | None) -> Handler:
    def handle(node: Node) -> Node:
        check_arguments(node, "this", "expression", "unit")
        shifted = sign(this=node.this, expression=call(_unit(node, known), _amount(node.expression)))
        expression: Node = exp.Paren(this=shifted)
        return exp.cast(expression, result, dialect="duckdb") if result else expression

    return handle


def _interval(node: exp.Interval) -> Node:
    if node.this is None or not isinstance(node.args.get("unit"), exp.Var):
        raise not_implemented(f"the interval {node.sql('bigquery')}")
    return call(_unit(node, _CALENDAR), _amount(node.this))


def _difference(name: str) -> Handler:
    def handle(node: Node) -> Node:
        check_arguments(node, "this", "expression", "unit", "date_part_boundary")
        unit = node.args.get("unit")
        if not isinstance(unit, exp.Var) or unit.name.upper() == "WEEK":
            raise not_implemented(f"this date part of {describe_node(node)}")
        return call(name, string(unit.name.lower()), node.expression, node.this)

    return handle


def _truncate(result: str | None) -> Handler:
    def handle(node: Node) -> Node:
        check_arguments(node, "this", "unit", "zone")
        check_utc(node.args.get("zone"))
        unit = node.args.get("unit")
        name = unit.name.upper() if isinstance(unit, exp.Var | exp.Literal) else ""
        if name not in _TRUNCATIONS:
            raise not_implemented(f"this date part of {describe_node(node)}")
        truncated = call("date_trunc", string("week" if name == "ISOWEEK" else name.lower()), node.this)
        return exp.cast(truncated, result, dialect="duckdb") if result else truncated

    return handle


def check_utc(zone: Node | None) -> None:
    """Reject time zones other than UTC.

    Raises:
        ApiError: 501.
    """
    if zone is not None and not (isinstance(zone, exp.Literal) and zone.name.upper() in ("UTC", "ETC/UTC", "+00:00")):
        raise not_implemented(f"the time zone {zone.sql('bigquery')}: use 'UTC'")


def _extract(node: exp.Extract) -> Node:
    value = node.expression
    if isinstance(value, exp.AtTimeZone):
        check_utc(value.args.get("zone"))
        value = value.this
    part = node.this.name.upper()
    if part == "DATE":
        return exp.cast(value, "DATE", dialect="duckdb")
    if part == "DAYOFWEEK":
        return exp.Paren(this=exp.Add(this=call("date_part", string("dow"), value), expression=exp.Literal.number(1)))
    if part in ("MICROSECOND", "MILLISECOND"):
        size = 1_000_000 if part == "MICROSECOND" else 1_000
        return call("bq_mod", call("date_part", string(part.lower()), value), exp.Literal.number(size))
    if part not in _PARTS:
        raise not_implemented(f"EXTRACT({part} ...)")
    return call("date_part", string(_PARTS[part]), value)


def _at_time_zone(node: exp.AtTimeZone) -> None:
    if not isinstance(node.parent, exp.Extract):
        raise not_implemented("AT TIME ZONE here")


def _time_format(node: Node) -> exp.Literal:
    """Return the format of a node, which DuckDB's strftime must support."""
    format_node = node.args.get("format")
    if not (isinstance(format_node, exp.Literal) and format_node.is_string):
        raise not_implemented("a time format that is not a literal")
    for element in re.findall(r"%(.)", format_node.name):
        if element not in _FORMAT_ELEMENTS:
            raise not_implemented(f"the time format %{element}")
    return string(format_node.name)


def _format_time(node: exp.TimeToStr) -> Node:
    check_arguments(node, "this", "format", "zone")
    check_utc(node.args.get("zone"))
    value = node.this
    kind, target = "DATE", "DATE"
    if isinstance(value, exp.TsOrDsToTimestamp):
        kind, target = "TIMESTAMP", "TIMESTAMPTZ"
    elif isinstance(value, exp.TsOrDsToDatetime):
        kind, target = "DATETIME", "TIMESTAMP"
    elif not isinstance(value, exp.TsOrDsToDate):
        raise not_implemented("this form of FORMAT_...")
    time: Node = exp.cast(value.this, target, dialect="duckdb")
    if kind == "TIMESTAMP":
        time = exp.AtTimeZone(this=time, zone=string("UTC"))
    return call("strftime", time, _time_format(node))


def _parse_time(result: str) -> Handler:
    def handle(node: Node) -> Node:
        check_arguments(node, "this", "format", "zone", "default_year")
        check_utc(node.args.get("zone"))
        return exp.cast(call("strptime", node.this, _time_format(node)), result, dialect="duckdb")

    return handle


def _to_type(result: str) -> Handler:
    """Return a handler that rewrites DATE(x), DATETIME(x) or TIMESTAMP(x) to a cast."""

    def handle(node: Node) -> Node | None:
        if isinstance(node.parent, exp.TimeToStr):
            return None  # FORMAT_DATE, FORMAT_DATETIME or FORMAT_TIMESTAMP: handled with it
        check_arguments(node, "this", "zone", "with_tz")
        check_utc(node.args.get("zone"))
        return exp.cast(node.this, result, dialect="duckdb")

    return handle


def _unix_to_time(node: exp.UnixToTime) -> Node:
    check_arguments(node, "this", "scale")
    scale = node.args.get("scale")
    factor = 10 ** (6 - (int(scale.name) if scale is not None else 0))
    return call("make_timestamptz", exp.Mul(this=exp.Paren(this=node.this), expression=exp.Literal.number(factor)))


def _unix(divisor: int) -> Handler:
    def handle(node: Node) -> Node:
        micros = call("epoch_us", exp.cast(node.this, "TIMESTAMPTZ", dialect="duckdb"))
        if divisor == 1:
            return micros
        return exp.cast(
            call("floor", exp.Div(this=micros, expression=exp.Literal.number(divisor))), "BIGINT", dialect="duckdb"
        )

    return handle


DATE_TIME_HANDLERS: Final[dict[str, Handler]] = {
    "Interval": _interval,
    "TimestampAdd": _shift(exp.Add, _SECONDS, None),
    "TimestampSub": _shift(exp.Sub, _SECONDS, None),
    "DatetimeAdd": _shift(exp.Add, _CALENDAR, "TIMESTAMP"),
    "DatetimeSub": _shift(exp.Sub, _CALENDAR, "TIMESTAMP"),
    "DateAdd": _shift(exp.Add, _CALENDAR, "DATE"),
    "DateSub": _shift(exp.Sub, _CALENDAR, "DATE"),
    "TimestampDiff": _difference("date_sub"),
    "DateDiff": _difference("date_diff"),
    "DatetimeDiff": _difference("date_diff"),
    "TimestampTrunc": _truncate(None),
    "DatetimeTrunc": _truncate("TIMESTAMP"),
    "DateTrunc": _truncate("DATE"),
    "Extract": _extract,
    "AtTimeZone": _at_time_zone,
    "TimeToStr": _format_time,
    "StrToTime": _parse_time("TIMESTAMPTZ"),
    "ParseDatetime": _parse_time("TIMESTAMP"),
    "StrToDate": _parse_time("DATE"),
    "TsOrDsToTimestamp": _to_type("TIMESTAMPTZ"),
    "TsOrDsToDatetime": _to_type("TIMESTAMP"),
    "TsOrDsToDate": _to_type("DATE"),
    "Timestamp": _to_type("TIMESTAMPTZ"),
    "Date": _to_type("DATE"),
    "DateFromParts": to_call("make_date", "year", "month", "day"),
    "UnixToTime": _unix_to_time,
    "UnixSeconds": _unix(1_000_000),
    "UnixMillis": _unix(1_000),
    "UnixMicros": _unix(1),
}
