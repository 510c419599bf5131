"""A query as text and parameters, and the check of SQL that a person wrote.

What a person gives as ``--where`` or ``--query`` is put in parentheses inside a larger query. It runs with
that person's own rights, so this is no wall against theft; it is what keeps ``a) OR (b`` from quietly
meaning something else than it says.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import shown

_OPEN = {"(": ")", "[": "]"}
_QUOTES = ("'''", '"""', "'", '"', "`")
_QUERY_START = re.compile(r"[\s(]*(SELECT|WITH|FROM)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One named query parameter.

    Attributes:
        name: Its name, without ``@``.
        type: ``STRING``, ``INT64``, ``FLOAT64``, ``BOOL`` or ``TIMESTAMP``.
        value: A value of that type (an aware datetime for ``TIMESTAMP``), or a tuple of them.
        array: True if the parameter is an array of that type.
    """

    name: str
    type: str
    value: Any
    array: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """A GoogleSQL query.

    Attributes:
        sql: The text.
        parameters: What its ``@names`` stand for.
    """

    sql: str
    parameters: tuple[Parameter, ...] = ()


def check_expression(text: str, *, where: str) -> str:
    """Checks that a text can stand in parentheses as one SQL expression.

    Args:
        text: The SQL.
        where: The flag that it came from.

    Returns:
        The text without blanks around it.

    Raises:
        UserError: It is empty, leaves a quote, comment or bracket open, closes one that it did not open,
            or holds a semicolon.
    """
    stripped = text.strip()
    if not stripped:
        raise UserError(f"{where} is empty; give an SQL condition or leave it away")
    _check_balance(stripped, where)
    return stripped


def check_select(text: str, *, where: str) -> str:
    """Checks that a text can stand in parentheses as one SELECT; semicolons at its end are dropped.

    Raises:
        UserError: As :func:`check_expression`, or it does not start as a query.
    """
    stripped = re.sub(r"[;\s]+\Z", "", text).strip()
    if not stripped:
        raise UserError(f"{where} is empty; give a SELECT")
    if not _QUERY_START.match(_without_leading_comments(stripped)):
        raise UserError(f"{where} must be one query that starts with SELECT or WITH, not {shown(stripped, 40)}")
    _check_balance(stripped, where)
    return stripped


def _check_balance(text: str, where: str) -> None:
    expected: list[str] = []
    at = 0
    while at < len(text):
        past = _skip(text, at, where)
        if past > at:
            at = past
            continue
        character = text[at]
        if character in _OPEN:
            expected.append(_OPEN[character])
        elif character in _OPEN.values() and (not expected or expected.pop() != character):
            raise UserError(f"{where}: {shown(character)} closes nothing, in {shown(text)}; check the brackets")
        elif character == ";":
            raise UserError(f"{where} must be one piece of SQL: there is a semicolon in {shown(text)}")
        at += 1
    if expected:
        raise UserError(f"{where}: {shown(expected[-1])} is missing at the end of {shown(text)}")


def _skip(text: str, at: int, where: str) -> int:
    """The place behind the comment or quoted text that starts here; ``at`` when none does."""
    if text.startswith("--", at) or text[at] == "#":
        end = text.find("\n", at)
        return len(text) if end < 0 else end + 1
    if text.startswith("/*", at):
        end = text.find("*/", at + 2)
        if end < 0:
            raise UserError(f"{where}: a comment is not closed in {shown(text)}")
        return end + 2
    for quote in _QUOTES:
        if text.startswith(quote, at):
            return _end_of_quote(text, at + len(quote), quote, where)
    return at


def _end_of_quote(text: str, at: int, quote: str, where: str) -> int:
    # In raw strings, too, a backslash keeps the quote behind it from ending the string (GoogleSQL lexis).
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text.startswith(quote, at):
            return at + len(quote)
        else:
            at += 1
    raise UserError(f"{where}: the quote {quote} is not closed in {shown(text)}")


def _without_leading_comments(text: str) -> str:
    return re.sub(r"\A(?:\s+|--[^\n]*\n|#[^\n]*\n|/\*.*?\*/)+", "", text, flags=re.DOTALL)
