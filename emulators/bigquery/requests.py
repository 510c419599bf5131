"""What the requests of the BigQuery API say beside their bodies, and what listings look like."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.bigquery.access import check_linked
from imagebeam.emulators.bigquery.ai.faults import check_ai_faults
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.faults import check_keys
from imagebeam.emulators.core.http import ApiError

#: Parameters that every Google API takes; the fields of an answer may always be more than asked for.
_COMMON: Final = frozenset(("prettyPrint", "alt", "fields", "key", "quotaUser", "$alt"))


_LABEL: Final = re.compile(r"labels\.([^:\s]+)(?::(\S*))?")


def check_parameters(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Refuse query parameters that would be ignored."""
    for key in query:
        if key not in _COMMON and key not in known:
            raise not_implemented(f"the parameter {key!r}")


def check_faults(settings: dict[str, Any]) -> None:
    """Refuse misspelt faults of the section ``bigquery``."""
    check_keys(settings, ("insert_failures", "rules", "ai", "linked"), "bigquery")
    check_linked(settings.get("linked", {}))
    check_ai_faults(settings.get("ai", {}))
    for rule in settings.get("insert_failures", ()):
        check_keys(rule, ("match", "times", "do", "message"), "bigquery.insert_failures")
        if rule.get("do") not in ("row_error", "http_503", "lost_answer"):
            raise ValueError(f"unknown do {rule.get('do')!r}: use row_error, http_503 or lost_answer")
    for rule in settings.get("rules", ()):
        check_keys(rule, ("match", "times", "do", "code", "message", "reason"), "bigquery.rules")
        if rule.get("do") != "http":
            raise ValueError(f"unknown do {rule.get('do')!r}: use http")


def same_project(request: web.Request, catalog: Catalog) -> None:
    """Refuse requests for another project."""
    project = request.match_info["project"]
    if project != catalog.project:
        raise ApiError(404, f"Not found: Project {project}", reason="notFound")


def dataset_id(request: web.Request) -> tuple[str, str]:
    """Return project and dataset of a request's path."""
    return request.match_info["project"], request.match_info["dataset"]


def table_id(request: web.Request) -> TableId:
    """Return the table of a request's path."""
    return TableId(*dataset_id(request), request.match_info["table"])


def label_conditions(text: str | None) -> list[tuple[str, str | None]]:
    """Read ``labels.key:value labels.other``."""
    conditions: list[tuple[str, str | None]] = []
    for word in (text or "").split():
        match = _LABEL.fullmatch(word)
        if match is None:
            raise not_implemented(f"the filter {text!r}: use labels.key:value")
        conditions.append((match[1], match[2]))
    return conditions


def listing(kind: str, name: str, items: list[Any], token: str | None) -> dict[str, Any]:
    """Return a listing as the API shows it."""
    answer: dict[str, Any] = {"kind": kind, "etag": uuid.uuid4().hex, name: items}
    return answer | ({"nextPageToken": token} if token else {})
