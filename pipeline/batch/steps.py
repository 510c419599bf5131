"""The Beam pipelines of a batch run: write requests, collect answers, call the model for the remainder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.transforms.combiners import ToList

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch.state import BatchRun, Prepared
from imagebeam.pipeline.run.launch import run_pipeline
from imagebeam.transforms.batch_shards import Shard
from imagebeam.transforms.build_batch_requests import BuildBatchRequests
from imagebeam.transforms.call_model import CallModel
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import CollectBatch, Ended
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, sum_counts
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.engine.engine import close_engine
from imagebeam.transforms.engine.settings import Caps
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.read_units import ReadUnits
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import release_lease
from imagebeam.transforms.start_run import Page, StartRun


def build_prepare(
    pipeline: beam.Pipeline,
    run: BatchRun,
    number: int,
    allowed: int | None,
    open_run: beam.PTransform[PCollection[Page], PCollection[Page]] | None = None,
) -> PCollection[int]:
    """Add the steps that write the requests of a round: ``start → write pages → complete the round``.

    Args:
        pipeline: The pipeline.
        run: The run.
        number: The round.
        allowed: Maximum number of units; None for all.
        open_run: Step before the pages are written; None for none.

    Returns:
        The number of shards, one element.
    """
    settings = run.in_round(number)
    started = pipeline | "Start" >> StartRun(settings, page_units=run.batch.limits.lines)
    pages = started["pages"] if open_run is None else started["pages"] | "Open" >> open_run
    completed: PCollection[int] = (
        pages
        | "Build" >> BuildBatchRequests(settings, run.batch, allowed)
        | "Shards" >> ToList()
        | "Complete" >> beam.Map(complete_round, settings, AsSingleton(started["source"]))
    )
    return completed


def prepare(run: BatchRun, number: int, allowed: int | None) -> Prepared:
    """Write the requests of a round. Shards that an earlier attempt completed are kept.

    Args:
        run: The run.
        number: The round.
        allowed: Maximum number of units; None for all.
    """
    settings = run.in_round(number)
    with _releasing_lease(run):
        run_pipeline(
            lambda pipeline: build_prepare(pipeline, run, number, allowed),
            settings,
            runner=run.runner,
            beam_args=run.beam_args,
        )
    found = batch_state.load_prepared(run, number)
    if found is None:
        raise SystemicError(f"the requests of run {settings.run_id} are missing in {settings.directory}")
    return found


@contextlib.contextmanager
def _releasing_lease(run: BatchRun) -> Iterator[None]:
    """Record pending answers and release the task's lease at the end."""
    try:
        yield
    finally:
        close_engine(run.run.run_id)
        release_lease(BigQueryClient(run.run.engine.call_settings.project), run.run)


def collect(run: BatchRun, ended: Sequence[Ended]) -> None:
    """Read and record the output of jobs that have ended."""
    run_pipeline(
        lambda pipeline: pipeline | "Ended" >> beam.Create(list(ended)) | "Collect" >> CollectBatch(run.run),
        run.run,
        runner=run.runner,
        beam_args=run.beam_args,
    )


def process_remainder(run: BatchRun, number: int, caps: Caps | None) -> OutcomeCounts:
    """Call the model for each unit that no job answered, in the fallback lane.

    Args:
        run: The run.
        number: Its next round.
        caps: The remaining budget; None for no cap.
    """
    engine = run.run.engine
    call_settings = dataclasses.replace(engine.call_settings, lane=run.batch.fallback).with_flex_timeouts()
    engine = dataclasses.replace(engine, call_settings=call_settings, caps=caps)
    settings = dataclasses.replace(run.in_round(number), engine=engine)

    def build(pipeline: beam.Pipeline) -> None:
        started = pipeline | "Start" >> StartRun(settings)
        (
            started["pages"]
            | "Read" >> ReadUnits(settings)
            | "Call" >> CallModel(settings.engine, emit="counts")
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "Save" >> beam.Map(_save_remainder, settings, AsSingleton(started["source"]))
        )

    with _releasing_lease(run):
        run_pipeline(build, settings, runner=run.runner, beam_args=run.beam_args)
    found = batch_state.load_remainder(run)
    if found is None:
        raise SystemicError(f"the counts of the fallback lane are missing in {settings.directory}")
    return found


def complete_round(shards: list[Shard], settings: RunSettings, source: SourceCounts) -> int:
    """Record that all shards of a round are written, if they account for all remaining units.

    Returns:
        The number of shards.
    """
    with record_failure(settings):
        read = sum(shard.read for shard in shards)
        if read != source.remaining:
            raise SystemicError(f"{source.remaining:,} units remain, but the requests have {read:,}")
        batch_state.save_prepared(settings, Prepared(source, tuple(sorted(shards, key=lambda shard: shard.name))))
        return len(shards)


def _save_remainder(counts: OutcomeCounts, settings: RunSettings, source: SourceCounts) -> None:
    batch_state.save_remainder(settings, dataclasses.replace(counts, read=source.remaining))
