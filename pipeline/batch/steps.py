"""The three Beam pipelines of a batch run: write the requests, collect the answers, ask the rest one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import AsSingleton
from apache_beam.transforms.combiners import ToList

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch.state import BatchRun, Prepared, Rest
from imagebeam.pipeline.run.assemble import patient
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
from imagebeam.transforms.engine.registry import close_engine
from imagebeam.transforms.engine.settings import Caps
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.read_units import ReadUnits
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.start_run import StartRun


def build_prepare(
    pipeline: beam.Pipeline, settings: RunSettings, batch: BatchSettings, allowed: int | None = None
) -> None:
    """Builds the job that writes a round's requests: ``start → write pages → say that the round is whole``."""
    started = pipeline | "Start" >> StartRun(settings, page_units=batch.limits.lines)
    (
        started["pages"]
        | "Build" >> BuildBatchRequests(settings, batch, allowed)
        | "Shards" >> ToList()
        | "Whole" >> beam.ParDo(Whole(settings), source=AsSingleton(started["source"]))
    )


def prepare(run: BatchRun, number: int, allowed: int | None) -> Prepared:
    """Writes the requests of a round; what was written before stays.

    Args:
        run: The run.
        number: The round.
        allowed: Units that the budget allows; None for all.
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
        free_lease(settings)
    found = batch_state.prepared(run, number)
    if found is None:
        raise SystemicError(f"the requests of run {settings.run_id} were written, but {settings.directory} lacks them")
    return found


def collect(run: BatchRun, ended: Sequence[Ended]) -> None:
    """Reads and records the output of jobs that have ended."""

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "Ended" >> beam.Create(list(ended)) | "Collect" >> CollectBatch(run.run)

    run_pipeline(build, run.run, runner=run.runner, beam_args=run.beam_args)


def ask_rest(run: BatchRun, number: int, caps: Caps | None) -> Rest:
    """Asks about what no job answered, one call a unit, in the fallback lane.

    Args:
        run: The run.
        number: Its next round.
        caps: What it may still spend; None for no cap.
    """
    settings = in_lane(run.in_round(number), run.batch.fallback, caps)

    def build(pipeline: beam.Pipeline) -> None:
        started = pipeline | "Start" >> StartRun(settings)
        (
            started["pages"]
            | "Read" >> ReadUnits(settings)
            | "Ask" >> CallModel(settings.engine, emit="counts")
            | "Sum" >> beam.CombineGlobally(sum_counts)
            | "Keep" >> beam.ParDo(_Keep(settings), source=AsSingleton(started["source"]))
        )

    try:
        run_pipeline(build, settings, runner=run.runner, beam_args=run.beam_args)
    finally:
        close_engine(settings.run_id)
        free_lease(settings)
    found = batch_state.rest_of(run)
    if found is None:
        raise SystemicError(f"the rest of run {settings.run_id} was asked, but {settings.directory} does not say so")
    return found


def in_lane(settings: RunSettings, lane: Lane, caps: Caps | None) -> RunSettings:
    """The run in an online lane, with the patience that the lane needs and what it may still spend."""
    call_settings = patient(dataclasses.replace(settings.engine.call_settings, lane=lane))
    return dataclasses.replace(
        settings, engine=dataclasses.replace(settings.engine, call_settings=call_settings, caps=caps)
    )


def free_lease(settings: RunSettings) -> None:
    """Gives the task's lease back: while jobs run, others may ask about other units."""
    destination = settings.engine.destination
    if destination is not None and destination.lease is not None:
        lease.release(BigQueryClient(settings.engine.call_settings.project), destination.lease, settings.run_id)


class Whole(beam.DoFn):
    """Says that all shards of a round are written, if they account for all units that are due."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: list[Shard], source: SourceCounts) -> Iterator[int]:
        """Gives their number."""
        with record_failure(self._settings):
            shards = sorted(element, key=lambda shard: shard.name)
            read = sum(shard.read for shard in shards)
            if read != source.remaining:
                raise SystemicError(f"{source.remaining:,} units remain, but the requests have {read:,}")
            batch_state.save_prepared(self._settings, Prepared(source, tuple(shards)))
            yield len(shards)


class _Keep(beam.DoFn):
    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: OutcomeCounts, source: SourceCounts) -> Iterator[int]:
        rest = Rest(source.remaining, element.ok, dict(element.failed), element.skipped, element.calls, element.stop)
        batch_state.save_rest(self._settings, rest)
        yield source.remaining
