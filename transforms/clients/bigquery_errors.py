"""What errors of the BigQuery client mean: a person's mistake, a run that cannot go on, or something that passes."""

from __future__ import annotations

from typing import Final

import google.api_core.exceptions as api_errors
import google.api_core.retry as retries
from google.cloud.bigquery.retry import DEFAULT_RETRY

from imagebeam.transforms.core.errors import SystemicError, UserError, first_line


def query_error(error: api_errors.GoogleAPICallError) -> UserError:
    """What to say about a query that was refused."""
    text = first_line(error)
    if over_cap(error):
        return UserError(f"the query would scan more than --maximum_bytes_billed: {text}")
    if isinstance(error, api_errors.Forbidden):
        return UserError(
            f"BigQuery refused the query: {text}; the account needs roles/bigquery.jobUser on the project "
            "and roles/bigquery.dataViewer on the source"
        )
    return UserError(f"BigQuery does not take the query: {text}")


def over_cap(error: BaseException) -> bool:
    """True if the query was refused for ``maximum_bytes_billed``; the client makes an InternalServerError of it."""
    return "bytesBilledLimitExceeded" in str(getattr(error, "errors", "")) or "bytes billed" in str(error)


def systemic(error: BaseException, doing: str) -> SystemicError:
    """What to say when something could not be done that every further call would need too."""
    return SystemicError(f"{doing}: {type(error).__name__}: {first_line(error)}")


def _is_passing(error: BaseException) -> bool:
    """True for an error that can pass: NotFound too, streaming can take a while to know a table just made."""
    return isinstance(error, (api_errors.ServerError, api_errors.TooManyRequests, api_errors.NotFound, OSError))


PATIENT: Final = retries.Retry(predicate=_is_passing, timeout=60.0)
NO_RETRY: Final = retries.Retry(predicate=retries.if_exception_type())
#: For looks at what is there: somebody may be waiting in front of a screen, and the client tries for ten minutes.
PATIENT_READ: Final = DEFAULT_RETRY.with_timeout(45.0)
