"""The file in a run's directory that tells the launcher why a step failed."""

from __future__ import annotations

import google.api_core.exceptions as api_errors
import orjson

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, first_line
from imagebeam.transforms.run_settings import RunSettings


class record_failure:  # noqa: N801 - reads as a word: with telling(settings)
    """Leaves what stopped a step in the run's directory, so that the launcher can say it in one line."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, api_errors.GoogleAPIError):
            error = SystemicError(f"{type(error).__name__}: {first_line(error)}")
        if isinstance(error, ImagebeamError):
            storage.write(
                self._settings.error_path,
                orjson.dumps({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}),
            )
