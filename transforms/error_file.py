"""The file in a run's directory through which a failed step reports its error to the launcher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import google.api_core.exceptions as api_errors
import orjson

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, first_line
from imagebeam.transforms.run_settings import RunSettings


@contextlib.contextmanager
def record_failure(settings: RunSettings) -> Iterator[None]:
    """Write an error of the block to ``error.json``, so that the launcher can print it on one line; re-raise it."""
    try:
        yield
    except (ImagebeamError, api_errors.GoogleAPIError) as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        known = error if isinstance(error, ImagebeamError) else SystemicError(text)
        document = {"error": type(known).__name__, "message": str(known), "exit_code": known.exit_code}
        storage.write(settings.error_path, orjson.dumps(document))
        raise
