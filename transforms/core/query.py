"""Queries with parameters, and checks of SQL from the user.

SQL from ``--where`` or ``--query`` is put in parentheses inside a larger query. It runs with the user's own
permissions, so the check is not a security boundary: it prevents ``a) OR (b`` from silently changing the meaning of the
larger query.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.text import quote

_OPEN = {"(": ")", "[": "]"}
#: Comments, quoted texts (a backslash escapes the next quote in raw strings too: GoogleSQL, "Lexical structure"), and
#: single characters; ``unclosed`` is the start of a comment or quoted text without an end.
_TOKEN = re.compile(
    r"""--[^\n]*|\#[^\n]*|/\*.*?\*/
    |(?P<quote>(?>'''|\"\"\"|['"`]))(?:\\.|(?!(?P=quote))[^\\])*(?P=quote)
    |(?P<unclosed>/\*|'''|\"\"\"|['"`])
    |.""",
    re.DOTALL | re.VERBOSE,
)
_QUERY_START = re.compile(
    r"(?>(?:\s+|--[^\n]*\n|\#[^\n]*\n|/\*.*?\*/)*)[\s(]*(SELECT|WITH|FROM)\b", re.IGNORECASE | re.DOTALL
)


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """A named query parameter.

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
        sql: SQL text.
        parameters: Values of the query parameters.
    """

    sql: str
    parameters: tuple[Parameter, ...] = ()


def check_expression(text: str, *, source: str) -> str:
    """Check that a text is one SQL expression that can be put in parentheses.

    Args:
        text: The SQL.
        source: The flag with the text, for messages.

    Returns:
        The text without surrounding whitespace.

    Raises:
        UserError: It is empty, has an unclosed quote, comment or bracket, an unmatched closing bracket, or a
            semicolon.
    """
    stripped = text.strip()
    if not stripped:
        raise UserError(f"{source} is empty; write a SQL condition, or omit the flag")
    _check_balance(stripped, source)
    return stripped


def check_select(text: str, *, source: str) -> str:
    """Check that a text is one SELECT that can be put in parentheses; trailing semicolons are removed.

    Raises:
        UserError: As for :func:`check_expression`, or it does not start with SELECT, WITH or FROM.
    """
    stripped = re.sub(r"[;\s]+\Z", "", text).strip()
    if not stripped:
        raise UserError(f"{source} is empty; write a SELECT statement")
    if not _QUERY_START.match(stripped):
        raise UserError(f"{source} must be one query that starts with SELECT or WITH, not {quote(stripped, 40)}")
    _check_balance(stripped, source)
    return stripped


def _check_balance(text: str, source: str) -> None:
    expected: list[str] = []
    for token in _TOKEN.finditer(text):
        found = token[0]
        if token["unclosed"]:
            what = "comment" if found == "/*" else f"quote {found}"
            raise UserError(f"{source}: unclosed {what} in {quote(text)}")
        if found in _OPEN:
            expected.append(_OPEN[found])
        elif found in _OPEN.values() and (not expected or expected.pop() != found):
            raise UserError(f"{source}: {quote(found)} is unmatched in {quote(text)}; check the brackets")
        elif found == ";":
            raise UserError(f"{source} must be one SQL expression or query: found a semicolon in {quote(text)}")
    if expected:
        raise UserError(f"{source}: {quote(expected[-1])} is missing at the end of {quote(text)}")
