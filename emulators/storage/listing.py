"""Listing of objects with prefixes, delimiters, offsets, globs and pages, in the order of Cloud Storage."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from imagebeam.emulators.core.http import ApiError

#: Maximum number of entries per page.
PAGE_LIMIT: Final = 1000

_ITEM: Final = 0
_PREFIX: Final = 1


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing: object names, common prefixes, and the token of the next page, if any."""

    names: list[str]
    prefixes: list[str]
    next_token: str | None


def list_page(names: Iterable[str], query: Mapping[str, str]) -> Page:
    """Return the requested page of a listing.

    Args:
        names: All object names with the prefix, in the order of their UTF-8 bytes.
        query: ``prefix``, ``delimiter``, ``includeTrailingDelimiter``, ``startOffset``, ``endOffset``,
            ``matchGlob``, ``maxResults``, ``pageToken``.

    Raises:
        ApiError: 400 for an invalid ``maxResults``, ``pageToken`` or ``matchGlob``.
    """
    limit = page_size(query)
    after = read_token(query["pageToken"]) if query.get("pageToken") else None
    found: list[tuple[str, int]] = []
    for entry in _entries(names, query):
        if after is not None and (entry[0].encode(), entry[1]) <= after:
            continue
        if len(found) == limit:
            last, kind = found[-1]
            return _page(found, make_token(last, kind))
        found.append(entry)
    return _page(found, None)


def page_size(query: Mapping[str, str]) -> int:
    """Return the page size, 1 to 1000; raise a 400 for an invalid ``maxResults``."""
    text = query.get("maxResults") or str(PAGE_LIMIT)
    if not text.isdecimal():
        raise ApiError(400, f"Invalid value for maxResults: {text!r}")
    return min(max(int(text), 1), PAGE_LIMIT)


def make_token(last: str, kind: int = _ITEM) -> str:
    """Return the page token that continues after an entry."""
    return base64.urlsafe_b64encode(orjson.dumps([last, kind])).decode()


def read_token(token: str) -> tuple[bytes, int]:
    """Return the entry after which a page token continues; raise a 400 for an invalid token."""
    try:
        last, kind = orjson.loads(base64.urlsafe_b64decode(token))
        return str(last).encode(), int(kind)
    except (ValueError, TypeError) as problem:
        raise ApiError(400, f"Invalid value for pageToken: {token!r}") from problem


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Convert a ``matchGlob`` (``*``, ``**``, ``?``, ``[a-c]``, ``{x,y}``) to a regular expression.

    Raises:
        ApiError: 400 for an unclosed bracket.
    """
    out: list[str] = []
    position = depth = 0
    while position < len(glob):
        letter = glob[position]
        position += 1
        if letter == "*":
            if glob[position : position + 1] == "*":
                position += 1
                out.append(".*")
            else:
                out.append("[^/]*")
        elif letter == "?":
            out.append("[^/]")
        elif letter == "[":
            end = glob.find("]", position + 1)
            if end < 0:
                raise ApiError(400, f"Invalid value for matchGlob: {glob!r}")
            inside = glob[position:end]
            negated = inside[:1] in ("!", "^")
            kept = inside[negated:].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
            out.append(f"(?!/)[{'^' if negated else ''}{kept}]")
            position = end + 1
        elif letter == "{":
            depth += 1
            out.append("(?:")
        elif letter == "}" and depth:
            depth -= 1
            out.append(")")
        elif letter == "," and depth:
            out.append("|")
        else:
            out.append(re.escape(letter))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as problem:
        raise ApiError(400, f"Invalid value for matchGlob: {glob!r}") from problem


def _entries(names: Iterable[str], query: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end = query.get("startOffset", "").encode(), query.get("endOffset", "").encode()
    trailing = query.get("includeTrailingDelimiter", "").lower() == "true"
    glob = glob_pattern(query["matchGlob"]) if query.get("matchGlob") else None
    previous = None
    for name in names:
        key = name.encode()
        if key < start or (end and key >= end) or (glob is not None and not glob.fullmatch(name)):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        if cut < 0:
            yield name, _ITEM
            continue
        common = name[: cut + len(delimiter)]
        if trailing and common == name:
            yield name, _ITEM
        if common != previous:
            previous = common
            yield common, _PREFIX


def _page(found: list[tuple[str, int]], token: str | None) -> Page:
    return Page([key for key, kind in found if kind == _ITEM], [key for key, kind in found if kind == _PREFIX], token)
