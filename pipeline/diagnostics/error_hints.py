"""What an error of a Google service means: cause, missing permission and the command that fixes it.

Explains errors of Google's clients and of google-auth, also if they are the ``__context__`` of an imagebeam error.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.diagnostics.iam_roles import Access
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.core.errors import ImagebeamError, UserError
from imagebeam.transforms.gemini.error_classes import one_line

LOGIN: Final = "gcloud auth application-default login"

#: A permission in a message; neither the name of a service nor part of an account.
_PERMISSION: Final = re.compile(
    r"(?<![@\w.-])(?:(?:aiplatform|bigquery|dataflow|storage)\.(?!googleapis\b)[a-zA-Z]+|iam\.serviceAccounts)\.[a-zA-Z]+\b"
)
_SERVICE: Final = re.compile(r"\b[a-z]+\.googleapis\.com(?=/overview)")
_DATASET: Final = re.compile(r"\b(?:Table|View|Dataset) ((?:[a-z0-9.-]+:)?[a-z][a-z0-9-]+):(\w+)")
#: BigQuery's message for a query without access to a table does not name the permission.
_QUERY_DENIED: Final = re.compile(r"does not have permission to query (?:table|view)", re.IGNORECASE)
_DISABLED: Final = frozenset({"SERVICE_DISABLED", "accessNotConfigured"})


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorHint:
    """The explanation of an error.

    Attributes:
        cause: What went wrong, in one line.
        permission: The missing permission; empty for none.
        fix: A command or flag that fixes it; empty if the cause contains it or there is none.
        systemic: The service cannot be used, and no fix is known.
    """

    cause: str
    permission: str = ""
    fix: str = ""
    systemic: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _ServiceError:
    """The parts of a service's error that the hints need, whichever client raised it."""

    message: str
    reasons: frozenset[str]
    metadata: Mapping[str, str]


def explain_error(error: BaseException, access: Access) -> ErrorHint:
    """Explain an error.

    Args:
        error: What was raised.
        access: Who accessed which resources.
    """
    ours = error if isinstance(error, ImagebeamError) else None
    if ours is not None and ours.fix:
        return ErrorHint(ours.cause, ours.permission, ours.fix)
    text = one_line(str(error) if ours is None else ours.cause)
    for cause in _chain(error):
        if any(cls.__module__.startswith("google.auth") for cls in type(cause).__mro__) and not _error_document(cause):
            transient = type(cause).__name__ == "TransportError" or bool(getattr(cause, "retryable", False))
            return ErrorHint(f"credentials: {one_line(str(cause))}", fix="" if transient else LOGIN, systemic=transient)
        answer = _read_error(cause)
        service = answer.metadata.get("service", "")
        if answer.reasons & _DISABLED:
            found = _SERVICE.search(answer.message)
            service = service or (found[0] if found else "")
            return ErrorHint(
                f"{service} is not enabled in project {access.project}",
                "serviceusage.services.enable: roles/serviceusage.serviceUsageAdmin, to enable it once",
                iam_roles.enable_command(service, access.project),
            )
        permission = _missing_permission(answer)
        if permission:
            if named := _DATASET.search(answer.message):  # a view may read tables of other datasets
                access = dataclasses.replace(access, dataset=f"{named[1]}.{named[2]}")
            return ErrorHint(
                text,
                iam_roles.describe_role(permission, access),
                iam_roles.grant_command(permission, access),
            )
    permission = "" if ours is None else ours.permission
    return ErrorHint(text, permission, systemic=not (permission or isinstance(error, UserError)))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _read_error(error: BaseException) -> _ServiceError:
    document = _error_document(error)
    if document:
        details = [entry for entry in document.get("details") or () if isinstance(entry, dict)]
        info = next((entry for entry in details if str(entry.get("@type", "")).endswith("ErrorInfo")), {})
        reasons = {str(info.get("reason", "")), *(str(entry.get("reason")) for entry in document.get("errors") or ())}
        return _ServiceError(str(document.get("message", "")), frozenset(reasons), info.get("metadata") or {})
    if isinstance(error, ImagebeamError) or getattr(error, "code", None) != 403:
        return _ServiceError("", frozenset(), {})
    # An error of google-api-core; others do not have these attributes.
    entries = [entry for entry in getattr(error, "errors", None) or () if isinstance(entry, dict)]
    reasons = {str(getattr(error, "reason", "")), *(str(entry.get("reason")) for entry in entries)}
    metadata = dict(getattr(error, "metadata", None) or {})
    return _ServiceError(str(getattr(error, "message", error)), frozenset(reasons), metadata)


def _error_document(error: BaseException) -> dict[str, Any]:
    """Return Google's error document if an exception carries it as text; empty if not."""
    texts = [error.body] if isinstance(error, ApiError) else list(error.args[1:])
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


def _missing_permission(answer: _ServiceError) -> str:
    if named := answer.metadata.get("permission"):
        return named
    if _QUERY_DENIED.search(answer.message):
        return "bigquery.tables.getData"
    found = _PERMISSION.search(answer.message)
    return found[0] if found else ""
