"""Translation of DuckDB errors to those of BigQuery: an invalid query is a 400 with the position, never a 500."""

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
_NOT_NULL: Final = re.compile(r"NOT NULL constraint failed: \S*?([^.\s]+)$")
_PREFIX: Final = re.compile(r"^(?:[A-Z][A-Za-z]* )+Error: ")
_PYTHON_PREFIX: Final = re.compile(r"Python exception occurred while executing the UDF: \w+: ")


def translate_error(problem: duckdb.Error, sql: str) -> ApiError:
    """Return the error that BigQuery would return.

    Args:
        problem: The error of DuckDB.
        sql: The query as the user wrote it, to find the position.
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
        at = position(sql, match[1])
        return invalid(
            f"SELECT list expression references column {match[1]} which is neither grouped nor aggregated{at}"
        )
    match = _NOT_NULL.search(first)
    if match:
        return invalid(f"Required field {match[1]} cannot be null")
    if isinstance(problem, duckdb.InterruptException):
        return ApiError(400, "Job execution was cancelled: User requested cancellation", reason="stopped")
    message = _PYTHON_PREFIX.sub("", _PREFIX.sub("", first))
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
    """Return `` at [line:column]`` of the first occurrence of a name in a query; empty if there is none."""
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", sql, re.IGNORECASE)
    match = match or re.search(re.escape(name), sql, re.IGNORECASE)
    if match is None:
        return ""
    before = sql[: match.start()]
    return f" at [{before.count(chr(10)) + 1}:{match.start() - (before.rfind(chr(10)) + 1) + 1}]"
