"""Paths and parameters of requests to the BigQuery API, and the shape of list responses."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.http import ApiError

#: Parameters of methods that return pages.
PAGING: Final = ("maxResults", "pageToken", "startIndex")
#: Parameters of methods that return rows.
FORMATS: Final = ("formatOptions.useInt64Timestamp", "formatOptions.timestampOutputFormat")
#: Parameters that every Google API accepts. ``fields`` may be ignored: a response may have more fields.
_COMMON: Final = frozenset(("prettyPrint", "alt", "fields", "key", "quotaUser", "$alt"))
_LABEL: Final = re.compile(r"labels\.([^:\s]+)(?::(\S*))?")


def check_parameters(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Reject query parameters that would be ignored.

    Raises:
        ApiError: 501.
    """
    for key in query:
        if key not in _COMMON and key not in known:
            raise not_implemented(f"the parameter {key!r}")


def check_project(request: web.Request, catalog: Catalog) -> None:
    """Reject requests for another project.

    Raises:
        ApiError: 404.
    """
    project = request.match_info["project"]
    if project != catalog.project:
        raise ApiError(404, f"Not found: Project {project}", reason="notFound")


def dataset_in_path(request: web.Request) -> tuple[str, str]:
    """Return the project and dataset in a request's path."""
    return request.match_info["project"], request.match_info["dataset"]


def table_in_path(request: web.Request) -> TableId:
    """Return the table in a request's path."""
    return TableId(*dataset_in_path(request), request.match_info["table"])


def parse_label_filter(text: str | None) -> list[tuple[str, str | None]]:
    """Parse a filter such as ``labels.key:value labels.other`` into label keys and values.

    Raises:
        ApiError: 501 for any other filter.
    """
    conditions: list[tuple[str, str | None]] = []
    for word in (text or "").split():
        match = _LABEL.fullmatch(word)
        if match is None:
            raise not_implemented(f"the filter {text!r}: use labels.key:value")
        conditions.append((match[1], match[2]))
    return conditions


def list_response(kind: str, name: str, items: list[Any], token: str | None) -> dict[str, Any]:
    """Return the response of a list method.

    Args:
        kind: The response's ``kind``.
        name: Key of the items.
        items: One page of them.
        token: Token of the next page, or None.
    """
    body: dict[str, Any] = {"kind": kind, "etag": uuid.uuid4().hex, name: items}
    return body | ({"nextPageToken": token} if token else {})
