"""The ``filter`` of ``batchPredictionJobs.list``: comparisons joined by AND and OR, as in AIP-160.

Fields are ``displayName`` (``=``, ``!=``, ``:`` with a wildcard), ``state``, ``model``, ``createTime`` (also
``<`` ``<=`` ``>`` ``>=``) and ``labels.<key>``, in camelCase or snake_case. OR has a higher precedence than AND.
"""

import datetime
import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError

Test = Callable[[Mapping[str, Any]], bool]

_TERM: Final = re.compile(
    r"""\s*(?P<not>NOT\s+|-)?(?P<field>[A-Za-z_]+(?:\.[\w-]+)?)\s*(?P<how>!=|<=|>=|=|<|>|:)\s*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"()]+))\s*"""
)
_JOIN: Final = re.compile(r"(AND|OR)\s")
_FIELDS: Final = {
    "displayName": "displayName", "display_name": "displayName", "state": "state", "model": "model",
    "createTime": "createTime", "create_time": "createTime",
}  # fmt: skip


def parse_filter(text: str) -> Test:
    """Return a predicate for job resources. An empty filter matches all.

    Raises:
        ApiError: 400 for an invalid filter.

    >>> wanted = parse_filter('displayName:"run-7*" AND state="JOB_STATE_PENDING"')
    >>> wanted({"displayName": "run-7-000", "state": "JOB_STATE_PENDING"})
    True
    """
    if not text.strip():
        return lambda _: True
    clauses: list[list[Test]] = [[]]
    place = 0
    while True:
        found = _TERM.match(text, place)
        if found is None:
            raise ApiError(400, f"Invalid filter: {text!r}, at character {place + 1}.")
        clauses[-1].append(_test(found, text))
        place = found.end()
        if place == len(text):
            break
        joined = _JOIN.match(text, place)
        if joined is None:
            raise ApiError(400, f"Invalid filter: {text!r}, at character {place + 1}: use AND or OR.")
        if joined[1] == "AND":
            clauses.append([])
        place = joined.end()
    return lambda job: all(any(test(job) for test in clause) for clause in clauses)


def _test(found: "re.Match[str]", text: str) -> Test:
    name, how = found["field"], found["how"]
    quoted = found["quoted"]
    wanted = found["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    read = _reader(name, text)
    if _FIELDS.get(name) == "createTime":
        compare = _times(how, wanted, text)
    elif how in ("=", "!=", ":"):
        compare = _words(how, wanted)
    else:
        raise ApiError(400, f"Invalid filter: {text!r}: {name} cannot be compared with {how}.")
    if found["not"]:
        return lambda job: not compare(read(job))
    return lambda job: compare(read(job))


def _reader(name: str, text: str) -> Callable[[Mapping[str, Any]], str | None]:
    if name.startswith("labels."):
        key = name.partition(".")[2]
        return lambda job: (job.get("labels") or {}).get(key)
    field = _FIELDS.get(name)
    if field is None:
        raise ApiError(400, f"Invalid filter: {text!r}: unknown field {name}.")
    return lambda job: job.get(field)


def _words(how: str, wanted: str) -> Callable[[str | None], bool]:
    if how == "=":
        return lambda value: value == wanted
    if how == "!=":
        return lambda value: value != wanted
    pattern = re.compile(fnmatch.translate(re.sub(r"([\[?])", r"[\1]", wanted)))
    return lambda value: value is not None and pattern.match(value) is not None


def _times(how: str, wanted: str, text: str) -> Callable[[str | None], bool]:
    try:
        limit = datetime.datetime.fromisoformat(wanted)
    except ValueError as problem:
        raise ApiError(400, f"Invalid filter: {text!r}: {wanted!r} is not a time.") from problem
    limit = limit.replace(tzinfo=datetime.UTC) if limit.tzinfo is None else limit

    def compare(value: str | None) -> bool:
        if value is None:
            return False
        this = datetime.datetime.fromisoformat(value)
        return {
            "=": this == limit, ":": this == limit, "!=": this != limit,
            "<": this < limit, "<=": this <= limit, ">": this > limit, ">=": this >= limit,
        }[how]  # fmt: skip

    return compare
