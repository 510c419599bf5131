"""A batch run on Dataflow: one Dataflow job writes the requests, creates the batch jobs and ends.

``imagebeam batch collect`` does the rest, from any machine: waiting for days needs no workers, and reading the
answers needs one process.
"""

from __future__ import annotations

import dataclasses
import logging

import apache_beam as beam
from apache_beam.pvalue import PCollection

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import steps as batch_steps
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch import totals as batch_totals
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.batch.status import format_status
from imagebeam.pipeline.run.launch import run_pipeline
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_tables import release_lease
from imagebeam.transforms.start_run import Page

_log = logging.getLogger(__name__)


def build(pipeline: beam.Pipeline, run: BatchRun) -> PCollection[int]:
    """Add the steps: ``start → write pages → complete the round → create the batch jobs``. All can be repeated.

    Args:
        pipeline: The pipeline.
        run: The run, as later processes will read it.

    Returns:
        The number of batch jobs, one element.
    """
    prepared = batch_steps.build_prepare(
        pipeline, run, 1, batch_totals.allowed_units(run, 1), open_run=beam.Map(_open_run, run)
    )
    submitted: PCollection[int] = prepared | "Settle" >> beam.Reshuffle() | "Submit" >> beam.Map(_submit_jobs, run)
    return submitted


def submit(run: BatchRun) -> None:
    """Submit the Dataflow job that prepares the run and creates its batch jobs.

    The run is open once the job has started to write requests.

    Args:
        run: The run, with the runner and options of the Dataflow job.

    Raises:
        ImagebeamError: Dataflow rejects the job.
    """
    # The machine that collects has neither Dataflow nor this job's image.
    later = dataclasses.replace(
        run, runner="FnApiRunner", beam_args=(f"--project={run.run.engine.call_settings.project}",)
    )
    run_pipeline(
        lambda pipeline: build(pipeline, later), run.run, runner=run.runner, beam_args=run.beam_args, wait=False
    )


def _open_run(page: Page, run: BatchRun) -> Page:
    """Write the run file before the first unit is recorded as submitted."""
    with record_failure(run.run):
        if batch_state.is_canceled(run):
            raise UserError(f"run {run.run.run_id} was canceled: no more requests are written")
        batch_state.save_run(run)
        return page


def _submit_jobs(_shards: int, run: BatchRun) -> int:
    """Create the jobs whose requests are written, each once, also if the step is repeated; return their number."""
    with record_failure(run.run):
        batch_state.save_run(run)  # a run without units has no page that wrote it
        release_lease(BigQueryClient(run.run.engine.call_settings.project), run.run)
        status = supervisor.reconcile(run, supervisor.jobs_client(run), only_create=True)
        for line in format_status(status):
            _log.info("%s", line)
        storage.delete(run.run.error_path)  # of an earlier attempt that failed
        return len(status.jobs)
