"""What a service's refusal means, whichever client brought it: cause, missing permission, and what mends it.

Errors of Google's clients, of google-auth, and our own that were made of one of them (their ``__context__``).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.diagnostics.iam_roles import Place
from imagebeam.transforms.clients.rest import RefusedError
from imagebeam.transforms.core.errors import ImagebeamError, UserError
from imagebeam.transforms.gemini.error_classes import one_line

LOGIN: Final = "gcloud auth application-default login"

#: Not the name of a service, nor a part of an account.
_PERMISSION: Final = re.compile(
    r"(?<![@\w.-])(?:(?:aiplatform|bigquery|dataflow|storage)\.(?!googleapis\b)[a-zA-Z]+|iam\.serviceAccounts)\.[a-zA-Z]+\b"
)
_SERVICE: Final = re.compile(r"\b[a-z]+\.googleapis\.com(?=/overview)")
_DATASET: Final = re.compile(r"\b(?:Table|View|Dataset) ((?:[a-z0-9.-]+:)?[a-z][a-z0-9-]+):(\w+)")
#: BigQuery's words for a query that may not read; they do not name the permission.
_MAY_NOT_QUERY: Final = re.compile(r"does not have permission to query (?:table|view)", re.IGNORECASE)
_DISABLED: Final = frozenset({"SERVICE_DISABLED", "accessNotConfigured"})


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorHint:
    """A failure, explained.

    Attributes:
        cause: Why, one line.
        permission: What is missing; empty for no permission.
        fix: What mends it; empty where the cause says it, or nobody knows.
        systemic: The service cannot be used, and nobody knows what would mend it.
    """

    cause: str
    permission: str = ""
    fix: str = ""
    systemic: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """What can be read from an error, by whatever client."""

    message: str
    reasons: frozenset[str]
    metadata: Mapping[str, str]


def explain(error: BaseException, place: Place) -> ErrorHint:
    """Explains an error.

    Args:
        error: What a check raised.
        place: What the check asked, and who asked.
    """
    if isinstance(error, ImagebeamError) and (error.fix or error.permission):
        return ErrorHint(error.cause, error.permission, error.fix)
    for known in _chain(error):
        if any(cls.__module__.startswith("google.auth") for cls in type(known).__mro__) and not _document(known):
            passing = type(known).__name__ == "TransportError" or bool(getattr(known, "retryable", False))
            return ErrorHint(f"credentials: {one_line(str(known))}", fix="" if passing else LOGIN, systemic=passing)
        answer = _read(known)
        service = answer.metadata.get("service", "")
        if answer.reasons & _DISABLED:
            found = _SERVICE.search(answer.message)
            service = service or (found[0] if found else "")
            return ErrorHint(
                f"{service} is not enabled in project {place.project}",
                "serviceusage.services.enable: roles/serviceusage.serviceUsageAdmin, to enable it once",
                iam_roles.enable(service, place.project),
            )
        permission = _permission(answer)
        if permission:
            if named := _DATASET.search(answer.message):  # a view may stand on tables that nobody named
                place = dataclasses.replace(place, dataset=f"{named[1]}.{named[2]}")
            return ErrorHint(
                one_line(str(error)), iam_roles.needed(permission, place), iam_roles.command(permission, place)
            )
    return ErrorHint(one_line(str(error)), systemic=not isinstance(error, UserError))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made of."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _read(error: BaseException) -> _Answer:
    document = _document(error)
    if document:
        details = [entry for entry in document.get("details") or () if isinstance(entry, dict)]
        info = next((entry for entry in details if str(entry.get("@type", "")).endswith("ErrorInfo")), {})
        reasons = {str(info.get("reason", "")), *(str(entry.get("reason")) for entry in document.get("errors") or ())}
        return _Answer(str(document.get("message", "")), frozenset(reasons), info.get("metadata") or {})
    # google-api-core's errors; any other has none of these.
    entries = [entry for entry in getattr(error, "errors", None) or () if isinstance(entry, dict)]
    reasons = {str(getattr(error, "reason", "")), *(str(entry.get("reason")) for entry in entries)}
    metadata = getattr(error, "metadata", None)
    if isinstance(error, ImagebeamError) or getattr(error, "code", None) != 403:
        return _Answer("", frozenset(), {})
    return _Answer(str(getattr(error, "message", error)), frozenset(reasons), dict(metadata or {}))


def _document(error: BaseException) -> dict[str, Any]:
    """Google's error document, where an exception carries it as text."""
    texts = [error.body] if isinstance(error, RefusedError) else list(error.args[1:])
    for text in texts:
        if not isinstance(text, bytes | str):
            continue
        try:
            found = json.loads(text)
        except ValueError:
            continue
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, dict) and isinstance(found.get("error"), dict):
            return dict(found["error"])
    return {}


def _permission(answer: _Answer) -> str:
    if named := answer.metadata.get("permission"):
        return named
    if _MAY_NOT_QUERY.search(answer.message):
        return "bigquery.tables.getData"
    found = _PERMISSION.search(answer.message)
    return found[0] if found else ""
