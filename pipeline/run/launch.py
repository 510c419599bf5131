"""Runs a Beam pipeline to its end, and turns what stopped one of its steps into our own error again."""

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
    """Builds and runs a pipeline.

    Args:
        build: Puts the steps into it.
        settings: The run, in whose directory a step says what stopped it.
        runner: Name of a Beam runner.
        beam_args: Options of Beam.
        wait: Wait for its end.

    Raises:
        ImagebeamError: What stopped a step.
    """
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # Beam logs what a step raised, and raises it here too: an expected stop would look like a crash.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(list(beam_args)))
        build(pipeline)
        result = pipeline.run()
        if wait:
            result.wait_until_finish()
    except Exception as error:
        told = read_json(settings.error_path)
        if told is not None:
            storage.delete(settings.error_path)  # a later step of the same run must not find it
            raise _ERRORS.get(told["error"], SystemicError)(told["message"]) from error
        if runner == "DataflowRunner":
            raise dataflow_staging.submission_error(error) from error
        raise


def read_json(path: str) -> dict[str, Any] | None:
    """A JSON document of a run directory; None when there is none."""
    data = storage.read(path)
    if data is None:
        return None
    document: dict[str, Any] = orjson.loads(data)
    return document
