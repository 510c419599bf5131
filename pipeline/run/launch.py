"""Run a Beam pipeline, and raise the error that a step recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.options.pipeline_options import PipelineOptions

from imagebeam.pipeline.run import dataflow_staging
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import ImagebeamError, ReconciliationError, SystemicError, UserError
from imagebeam.transforms.run_settings import RunSettings

_ERRORS: Mapping[str, type[ImagebeamError]] = {
    kind.__name__: kind for kind in (UserError, SystemicError, ReconciliationError)
}


def run_pipeline(
    build: Callable[[beam.Pipeline], object],
    settings: RunSettings,
    *,
    runner: str,
    beam_args: Sequence[str],
    wait: bool = True,
) -> None:
    """Build and run a pipeline.

    Args:
        build: Adds the steps to the pipeline.
        settings: The run. A step that stops it records its error in the run directory.
        runner: Name of a Beam runner.
        beam_args: Options of Beam.
        wait: Wait until the pipeline finishes.

    Raises:
        ImagebeamError: The error that a step recorded, or that of a failed submission.
    """
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # Retried requests of google-auth, such as one that a proxy rejects: nothing that a user could act on.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # Beam both logs and raises the error of a step: an expected stop would look like a crash.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(list(beam_args)))
        build(pipeline)
        result = pipeline.run()
        if wait:
            result.wait_until_finish()
    except Exception as error:
        recorded = read_json(settings.error_path)
        if recorded is not None:
            storage.delete(settings.error_path)  # a later step of the same run must not find it
            raise _ERRORS.get(recorded["error"], SystemicError)(recorded["message"]) from error
        if runner == "DataflowRunner":
            raise dataflow_staging.submission_error(error) from error
        raise


def read_json(path: str) -> dict[str, Any] | None:
    """Read a JSON document of a run directory; None if it does not exist."""
    data = storage.read(path)
    if data is None:
        return None
    document: dict[str, Any] = orjson.loads(data)
    return document
