"""DuckDB's errors as BigQuery's: a wrong query is a 400 that says where, never a failure of the server."""

from __future__ import annotations

import re
from typing import Final

import duckdb

from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented
from imagebeam.emulators.core.http import ApiError

_UNKNOWN_COLUMN: Final = (
    re.compile(r'Referenced column "([^"]+)" not found'),
    re.compile(r'Referenced table "([^"]+)" not found'),
    re.compile(r'does not have a column (?:named|with name) "([^"]+)"'),
    re.compile(r'Column "([^"]+)" referenced that exists in the SELECT clause'),
)
_UNKNOWN_FUNCTION: Final = re.compile(r"Function with name (\S+) does not exist")
_NOT_GROUPED: Final = re.compile(r'[Cc]olumn "([^"]+)" must appear in the GROUP BY clause')
_NULL_INTO: Final = re.compile(r"NOT NULL constraint failed: \S*?([^.\s]+)$")
_PREFIX: Final = re.compile(r"^(?:[A-Z][A-Za-z]* )+Error: ")
_IN_PYTHON: Final = re.compile(r"Python exception occurred while executing the UDF: \w+: ")


def translate(problem: duckdb.Error, sql: str) -> ApiError:
    """Return the error that BigQuery would give.

    Args:
        problem: What DuckDB raised.
        sql: The query as the person wrote it, for the position.
    """
    lines = str(problem).splitlines()
    first = lines[0] if lines else type(problem).__name__
    for pattern in _UNKNOWN_COLUMN:
        match = pattern.search(first)
        if match:
            return invalid(f"Unrecognized name: {match[1]}{position(sql, match[1])}")
    match = _UNKNOWN_FUNCTION.search(first)
    if match:
        return not_implemented(f"the function {match[1]}")
    match = _NOT_GROUPED.search(first)
    if match:
        where = position(sql, match[1])
        return invalid(
            f"SELECT list expression references column {match[1]} which is neither grouped nor aggregated{where}"
        )
    match = _NULL_INTO.search(first)
    if match:
        return invalid(f"Required field {match[1]} cannot be null")
    if isinstance(problem, duckdb.InterruptException):
        return ApiError(400, "Job execution was cancelled: User requested cancellation", reason="stopped")
    message = _IN_PYTHON.sub("", _PREFIX.sub("", first))
    if message.startswith("not implemented: "):
        return not_implemented(message.removeprefix("not implemented: "))
    if isinstance(problem, duckdb.ParserException):
        return invalid(f"Syntax error: {message}")
    if isinstance(problem, duckdb.InternalException | duckdb.FatalException | duckdb.IOException):
        return ApiError(501, f"The local BigQuery failed: {message}", reason="notImplemented")
    if isinstance(problem, duckdb.OutOfMemoryException):
        return ApiError(400, f"Resources exceeded during query execution: {message}", reason="resourcesExceeded")
    return invalid(message)


def position(sql: str, name: str) -> str:
    """Return `` at [line:column]`` of the first place where a name stands in a query; empty when nowhere."""
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", sql, re.IGNORECASE)
    match = match or re.search(re.escape(name), sql, re.IGNORECASE)
    if match is None:
        return ""
    before = sql[: match.start()]
    return f" at [{before.count(chr(10)) + 1}:{match.start() - (before.rfind(chr(10)) + 1) + 1}]"
