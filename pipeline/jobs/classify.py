"""``imagebeam classify``: call the model for every remaining unit of a source, on a laptop or on Dataflow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from imagebeam.pipeline.batch import follow as batch_follow
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import submit as batch_submit
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.console.progress import Progress
from imagebeam.pipeline.preflight.gate import prepare_run
from imagebeam.pipeline.results.run_result import RunResult, ended_run
from imagebeam.pipeline.run.assemble import build_batch_settings
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.pipeline.run.launch import read_json, run_pipeline
from imagebeam.pipeline.run.resolved_run import ReadyRun
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.call_model import CallModel
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import ImagebeamError, UserError
from imagebeam.transforms.core.records import Lane, utc_now
from imagebeam.transforms.engine.engine import close_engine, live_engines
from imagebeam.transforms.finish_run import FinishRun
from imagebeam.transforms.read_units import ReadUnits
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import release_lease
from imagebeam.transforms.start_run import StartRun


def build(pipeline: beam.Pipeline, settings: RunSettings) -> PCollection[dict[str, Any]]:
    """Add the steps of a run: ``start → read pages → call → sum → finish → fail on mismatch``.

    A reshuffle precedes every step whose retry must not repeat the steps before it.

    Returns:
        The run's summary, one element.
    """
    started = pipeline | "Start" >> StartRun(settings)
    counts = started["pages"] | "Read" >> ReadUnits(settings) | "Call" >> CallModel(settings.engine, emit="counts")
    summary: PCollection[dict[str, Any]] = counts | "Finish" >> FinishRun(settings, started["source"])
    return summary


def run(
    settings: ClassifySettings, beam_args: list[str], show: Callable[[RunResult], None] = lambda _: None
) -> RunResult:
    """Check the settings, print the estimate and run the pipeline.

    Args:
        settings: Settings of the run.
        beam_args: Options of Beam.
        show: Receives the result when the run has ended.

    Raises:
        ImagebeamError: The run cannot start or was stopped; the error has the exit code.
    """
    console = Console(quiet=settings.quiet, json=settings.as_json)
    ready = prepare_run(settings, beam_args, console)
    if settings.lane == Lane.BATCH:
        return _run_batch(ready, beam_args, console, show)
    started = time.monotonic()
    summary = _run_pipeline(settings, ready.run, beam_args, console, remaining=ready.counts.remaining)
    if summary is None:
        console.status("submitted; the summary will be in " + ready.run.summary_path)
        return RunResult(ready.run)
    took_s = time.monotonic() - started
    result = ended_run(ready.run, summary, took_s=took_s, max_failure_percent=settings.max_failure_percent)
    show(result)
    return result


def build_batch_run(settings: ClassifySettings, run_settings: RunSettings, beam_args: Sequence[str]) -> BatchRun:
    """Return the batch run as later processes will read it."""
    return BatchRun(
        run_settings,
        build_batch_settings(settings),
        utc_now(),
        settings.max_failure_percent,
        settings.runner,
        tuple(beam_args),
    )


def _run_batch(ready: ReadyRun, beam_args: list[str], console: Console, show: Callable[[RunResult], None]) -> RunResult:
    """Write the requests, create the jobs and follow them. ``imagebeam batch`` can continue from any point."""
    settings = ready.resolved.settings
    batch = build_batch_run(settings, ready.run, beam_args)
    if settings.runner == "DataflowRunner":
        batch_submit.submit(batch)
        console.status(f"submitted; once jobs exist, run `imagebeam batch collect --work_dir={settings.work_dir}`")
        return RunResult(ready.run)
    if not ready.counts.remaining:
        console.status("no units remain: no job is created")
    batch_state.save_run(batch)
    followed = batch_follow.FollowedBatch(batch, show)
    try:
        with draining_on_signals(lambda _reason: None):  # the jobs continue without this process
            batch_follow.follow(
                [followed],
                console,
                poll_s=settings.batch_poll_s,
                wait=not settings.no_wait,
                as_json=settings.as_json,
            )
    except UserError as error:
        if batch_state.load_prepared(batch, 1) is None:  # no job exists: do not leave the run open
            batch_state.cancel(batch)
            with contextlib.suppress(Exception):
                batch_follow.JobWatcher(batch_follow.FollowedBatch(batch), console).step()
            raise error.__cause__ or error from None
        raise
    except KeyboardInterrupt:
        console.status(f"\nthe jobs continue; wait again with `imagebeam batch collect --work_dir={settings.work_dir}`")
        return RunResult(ready.run, report.STOP_CODES["interrupted"])
    if followed.result is None:
        console.status(f"submitted; `imagebeam batch collect --work_dir={settings.work_dir}` completes the run")
    return followed.result or RunResult(ready.run)


def _run_pipeline(
    settings: ClassifySettings, run_settings: RunSettings, beam_args: list[str], console: Console, *, remaining: int
) -> Mapping[str, Any] | None:
    """Run the pipeline; return its summary, or None if it was only submitted."""
    dataflow = settings.runner == "DataflowRunner"
    try:
        with draining_on_signals(_drain), Progress(remaining, console):
            run_pipeline(
                lambda pipeline: build(pipeline, run_settings),
                run_settings,
                runner=settings.runner,
                beam_args=beam_args,
                wait=not dataflow,
            )
    except Exception:
        summary = read_json(run_settings.summary_path)
        if summary is not None:
            return summary
        raise
    finally:
        close_engine(run_settings.run_id)
        with contextlib.suppress(ImagebeamError):
            release_lease(BigQueryClient(settings.project), run_settings)
    return None if dataflow else read_json(run_settings.summary_path)


def _drain(reason: str) -> str | None:
    """Drain the engines of this process; return what is waited for, or None if there is no engine."""
    engines = live_engines()
    for engine in engines:
        engine.drain(reason)
    return "no new calls; waiting for the answers of calls in flight" if engines else None
