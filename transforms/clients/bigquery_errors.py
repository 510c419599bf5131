"""Translate errors of the BigQuery client into one-line errors, and retry policies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import google.api_core.exceptions as api_errors
import google.api_core.retry as retries
import google.auth.exceptions
from google.cloud.bigquery.retry import DEFAULT_RETRY

from imagebeam.transforms.core.errors import SystemicError, UserError, first_line


def query_error(error: BaseException) -> UserError:
    """Return the error for a query that BigQuery rejected."""
    text = first_line(error)
    if is_over_bytes_limit(error):
        return UserError(f"the query would scan more than --maximum_bytes_billed: {text}; raise it, or scan less")
    if isinstance(error, api_errors.Forbidden):
        return UserError(
            f"no permission to run the query: {text}",
            permission="roles/bigquery.jobUser on the project and roles/bigquery.dataViewer on the source",
        )
    return UserError(f"BigQuery rejects the query: {text}")


def is_over_bytes_limit(error: BaseException) -> bool:
    """Return True if a query exceeded ``maximum_bytes_billed``, which the client raises as InternalServerError."""
    return "bytesBilledLimitExceeded" in str(getattr(error, "errors", "")) or "bytes billed" in str(error)


def systemic_error(error: BaseException, doing: str) -> SystemicError:
    """Return the error for a failure that would affect every further request."""
    return SystemicError(f"{doing}: {type(error).__name__}: {first_line(error)}")


@contextlib.contextmanager
def query_errors(doing: str) -> Iterator[None]:
    """Translate errors of a query.

    Args:
        doing: What is being done, for the message.

    Raises:
        UserError: The query is invalid, forbidden or over its byte limit.
        SystemicError: Any other error of the service.
    """
    try:
        yield
    except (api_errors.GoogleAPIError, OSError) as error:
        rejected = isinstance(error, api_errors.BadRequest | api_errors.NotFound | api_errors.Forbidden)
        raise query_error(error) if rejected or is_over_bytes_limit(error) else systemic_error(error, doing) from None


@contextlib.contextmanager
def service_errors(doing: str) -> Iterator[None]:
    """Translate errors of any other request.

    Args:
        doing: What is being done, for the message.

    Raises:
        SystemicError: The request failed.
    """
    try:
        yield
    except google.auth.exceptions.GoogleAuthError as error:
        raise SystemicError(f"{doing}: credentials failed: {first_line(error)}") from None
    except (api_errors.GoogleAPIError, OSError) as error:
        raise systemic_error(error, doing) from None


def _is_transient(error: BaseException) -> bool:
    """NotFound counts as transient: streaming inserts may not see a table that was just created."""
    return isinstance(error, (api_errors.ServerError, api_errors.TooManyRequests, api_errors.NotFound, OSError))


INSERT_RETRY: Final = retries.Retry(predicate=_is_transient, timeout=60.0)
NO_RETRY: Final = retries.Retry(predicate=retries.if_exception_type())
#: For metadata reads: a user may be waiting, and the client's default retries for ten minutes.
READ_RETRY: Final = DEFAULT_RETRY.with_timeout(45.0)
