"""The Beam pipelines of a batch run: write requests, collect answers, call the model for the remainder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import AsSingleton
from apache_beam.transforms.combiners import ToList

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch.state import BatchRun, Prepared
from imagebeam.pipeline.run.assemble import with_flex_timeouts
from imagebeam.pipeline.run.launch import run_pipeline
from imagebeam.transforms.batch_shards import BatchSettings, Shard
from imagebeam.transforms.build_batch_requests import BuildBatchRequests
from imagebeam.transforms.call_model import CallModel
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import CollectBatch, Ended
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, sum_counts
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.engine.engine import close_engine
from imagebeam.transforms.engine.settings import Caps
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.read_units import ReadUnits
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.start_run import StartRun


def build_prepare(
    pipeline: beam.Pipeline, settings: RunSettings, batch: BatchSettings, allowed: int | None = None
) -> None:
    """Add the steps that write the requests of a round: ``start → write pages → complete the round``."""
    started = pipeline | "Start" >> StartRun(settings, page_units=batch.limits.lines)
    (
        started["pages"]
        | "Build" >> BuildBatchRequests(settings, batch, allowed)
        | "Shards" >> ToList()
        | "Complete" >> beam.ParDo(CompleteRound(settings), source=AsSingleton(started["source"]))
    )


def prepare(run: BatchRun, number: int, allowed: int | None) -> Prepared:
    """Write the requests of a round. Shards that an earlier attempt completed are kept.

    Args:
        run: The run.
        number: The round.
        allowed: Maximum number of units; None for all.
    """
    settings = run.in_round(number)
    try:
        run_pipeline(
            lambda pipeline: build_prepare(pipeline, settings, run.batch, allowed),
            settings,
            runner=run.runner,
            beam_args=run.beam_args,
        )
    finally:
        release_lease(settings)
    found = batch_state.load_prepared(run, number)
    if found is None:
        raise SystemicError(f"the requests of run {settings.run_id} are missing in {settings.directory}")
    return found


def collect(run: BatchRun, ended: Sequence[Ended]) -> None:
    """Read and record the output of jobs that have ended."""

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "Ended" >> beam.Create(list(ended)) | "Collect" >> CollectBatch(run.run)

    run_pipeline(build, run.run, runner=run.runner, beam_args=run.beam_args)


def process_remainder(run: BatchRun, number: int, caps: Caps | None) -> OutcomeCounts:
    """Call the model for each unit that no job answered, in the fallback lane.

    Args:
        run: The run.
        number: Its next round.
        caps: The remaining budget; None for no cap.
    """
    settings = in_lane(run.in_round(number), run.batch.fallback, caps)

    def build(pipeline: beam.Pipeline) -> None:
        started = pipeline | "Start" >> StartRun(settings)
        (
            started["pages"]
            | "Read" >> ReadUnits(settings)
            | "Call" >> CallModel(settings.engine, emit="counts")
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "Save" >> beam.ParDo(_SaveRemainder(settings), source=AsSingleton(started["source"]))
        )

    try:
        run_pipeline(build, settings, runner=run.runner, beam_args=run.beam_args)
    finally:
        close_engine(settings.run_id)
        release_lease(settings)
    found = batch_state.load_remainder(run)
    if found is None:
        raise SystemicError(f"the counts of the fallback lane are missing in {settings.directory}")
    return found


def in_lane(settings: RunSettings, lane: Lane, caps: Caps | None) -> RunSettings:
    """Return the run in an online lane, with the timeouts of the flex lane and the remaining budget."""
    call_settings = with_flex_timeouts(dataclasses.replace(settings.engine.call_settings, lane=lane))
    return dataclasses.replace(
        settings, engine=dataclasses.replace(settings.engine, call_settings=call_settings, caps=caps)
    )


def release_lease(settings: RunSettings) -> None:
    """Release the task's lease: while jobs run, other runs can process other units."""
    destination = settings.engine.destination
    if destination is not None and destination.lease is not None:
        lease.release(BigQueryClient(settings.engine.call_settings.project), destination.lease, settings.run_id)


class CompleteRound(beam.DoFn):
    """Records that all shards of a round are written, if they account for all remaining units."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: list[Shard], source: SourceCounts) -> Iterator[int]:
        """Emit the number of shards."""
        with record_failure(self._settings):
            shards = sorted(element, key=lambda shard: shard.name)
            read = sum(shard.read for shard in shards)
            if read != source.remaining:
                raise SystemicError(f"{source.remaining:,} units remain, but the requests have {read:,}")
            batch_state.save_prepared(self._settings, Prepared(source, tuple(shards)))
            yield len(shards)


class _SaveRemainder(beam.DoFn):
    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: OutcomeCounts, source: SourceCounts) -> Iterator[int]:
        batch_state.save_remainder(self._settings, dataclasses.replace(element, read=source.remaining))
        yield source.remaining
