"""A batch run on Dataflow: one job writes the requests and creates the batch jobs, and nobody waits for it.

What follows is done by ``imagebeam batch collect``, wherever that is called: looking at jobs for days needs no
workers, and reading their answers one process.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.transforms.combiners import ToList

from imagebeam.pipeline.batch import command as batch_command
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import steps as batch_steps
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch import totals as batch_totals
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.run.launch import run_pipeline
from imagebeam.transforms.build_batch_requests import BuildBatchRequests
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.start_run import Page, StartRun

_log = logging.getLogger(__name__)


def build(pipeline: beam.Pipeline, run: BatchRun) -> PCollection[int]:
    """Builds the job: ``start → write pages → say that the round is whole → create the batch jobs``.

    Gives the number of batch jobs, one element. Every step may be done again.

    Args:
        pipeline: Gets the steps.
        run: The run, as those who go on with it will find it.
    """
    started = pipeline | "Start" >> StartRun(run.run, page_units=run.batch.limits.lines)
    whole = (
        started["pages"]
        | "Open" >> beam.ParDo(_Open(run))
        | "Build" >> BuildBatchRequests(run.run, run.batch, batch_totals.allowed(run, 1))
        | "Shards" >> ToList()
        | "Whole" >> beam.ParDo(batch_steps.Whole(run.run), source=AsSingleton(started["source"]))
    )
    submitted: PCollection[int] = whole | "Settle" >> beam.Reshuffle() | "Submit" >> beam.ParDo(_Submit(run))
    return submitted


def submit(run: BatchRun) -> None:
    """Submits the job that prepares the run and creates its batch jobs. The run is open as soon as that has begun.

    Args:
        run: The run, with the runner and the options of that job.

    Raises:
        ImagebeamError: The job is not taken.
    """
    # Where the rest is done there is neither Dataflow nor this job's image.
    later = dataclasses.replace(
        run, runner="FnApiRunner", beam_args=(f"--project={run.run.engine.call_settings.project}",)
    )
    run_pipeline(
        lambda pipeline: build(pipeline, later), run.run, runner=run.runner, beam_args=run.beam_args, wait=False
    )


class _Open(beam.DoFn):
    """Makes the run known before the first of its units is marked as submitted."""

    def __init__(self, run: BatchRun) -> None:
        self._run = run

    def process(self, element: Page) -> Iterator[Page]:
        with record_failure(self._run.run):
            if batch_state.is_cancelled(self._run):
                raise UserError(f"run {self._run.run.run_id} was cancelled: no more requests are written")
            batch_state.save_run(self._run)
            yield element


class _Submit(beam.DoFn):
    """Creates the jobs whose requests are written, each once, however often it is done."""

    def __init__(self, run: BatchRun) -> None:
        self._run = run

    def process(self, element: int) -> Iterator[int]:
        run = self._run
        with record_failure(run.run):
            batch_state.save_run(run)  # without a page nobody has heard of it
            batch_steps.free_lease(run.run)
            status = supervisor.tick(run, batch_command.jobs_of(run), only_create=True)
            for line in batch_command.lines(status):
                _log.info("%s", line)
            storage.delete(run.run.error_path)  # an attempt before this one may have failed
            yield len(status.jobs)
