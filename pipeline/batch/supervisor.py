"""Moves batch runs forward: one :func:`tick` does all that can be done now, and doing it again does no harm.

A job is created once per shard and round. Who creates it first writes an intent, so that a supervisor that
dies leaves a trace; the next one looks for a job of that name in the list, and creates another only when none
has turned up for the grace time. Every other step finds what was done before by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import steps as batch_steps
from imagebeam.pipeline.batch import totals as batch_totals
from imagebeam.pipeline.batch.state import BatchRun, Prepared
from imagebeam.pipeline.batch.totals import NOTHING_LEFT
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.batch_shards import Shard, display_prefix
from imagebeam.transforms.build_batch_requests import register
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.batch_jobs import BatchJobs, NotCreatedError, UncertainError
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import Collected, Ended, read_collected
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import utc_now
from imagebeam.transforms.gemini.job_states import PREFIX, BatchJob, Step, rule_of

#: google.rpc.Code of a failed job that may do better the next time: UNKNOWN, DEADLINE_EXCEEDED,
#: RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE.
RETRYABLE_RPC_CODES = frozenset({2, 4, 8, 10, 13, 14})


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """A shard and its job, for people.

    Attributes:
        shard: The shard.
        phase: What it is doing, a word.
        job: Its job, as last seen; None while there is none.
        collected: What came of it; None until then.
        note: What is worth saying besides.
    """

    shard: Shard
    phase: str
    job: BatchJob | None = None
    collected: Collected | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """Where a run is.

    Attributes:
        run_id: The run.
        round: Its newest round.
        jobs: The jobs of all rounds.
        summary: The end of the run; None while it is open.
        busy: Another supervisor is at work on it: nothing was done.
    """

    run_id: str
    round: int = 1
    jobs: Sequence[JobView] = ()
    summary: Mapping[str, Any] | None = None
    busy: str = ""


def tick(run: BatchRun, jobs: BatchJobs, *, only_create: bool = False) -> Status:
    """Does all that can be done now for a run.

    Args:
        run: The run.
        jobs: The batch jobs where its are.
        only_create: Create the jobs of the first round, and leave everything after that to others. A run without
            jobs is ended all the same.

    Raises:
        SystemicError: It cannot go on; the run stays open, and nothing of it is lost.
    """
    bq = BigQueryClient(run.run.engine.call_settings.project)
    table = run.run.sibling(f"_lease_batch_{run.run.run_id}".replace("-", "_"))
    holder = f"{run.run.run_id}/{secrets.token_hex(4)}"
    if (summary := read_json(run.run.summary_path)) is not None:
        return Status(run.run.run_id, batch_state.rounds_begun(run), summary=summary)
    try:
        lease.acquire(bq, table, holder)
    except UserError as held:
        return Status(run.run.run_id, busy=str(held))
    try:
        with _kept(bq, table, holder):
            return _tick(run, jobs, bq, only_create=only_create)
    finally:
        lease.release(bq, table, holder)


@contextlib.contextmanager
def _kept(bq: BigQueryClient, table: TableName, holder: str) -> Iterator[None]:
    """Keeps a lease from expiring: writing requests and reading answers can take longer than it lives."""
    over = threading.Event()

    def extend() -> None:
        while not over.wait(lease.EXTEND_EVERY_S):
            with contextlib.suppress(Exception):
                lease.extend(bq, table, holder)

    thread = threading.Thread(target=extend, daemon=True, name="batch-lease")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def look(run: BatchRun, jobs: BatchJobs) -> Status:
    """Where a run is, without doing anything for it."""
    newest = batch_state.rounds_begun(run)
    return Status(run.run.run_id, newest, _views(run, newest, jobs))


def _views(run: BatchRun, rounds: int, jobs: BatchJobs) -> list[JobView]:
    listed = _by_name(jobs, run)
    shards = [shard for shard in batch_totals.shards(run, rounds) if shard.lines]
    return [_view(shard, _job_of(run, shard, listed, jobs)) for shard in shards]


def _held(run: BatchRun, bq: BigQueryClient, *, cancelled: bool = False) -> str:
    """Why the next units cannot be chosen now: a run of the task is choosing; empty if none is.

    That may be this very run on Dataflow, and then not even a cancelled one can be told what is whole.
    """
    destination = run.run.engine.destination
    if destination is None or destination.lease is None:
        return ""
    held = lease.read_holder(bq, destination.lease)
    if held is None or held.is_dead_here():
        return ""
    if held.run_id == run.run.run_id:
        return f"its requests are being written on {held.host}, since {held.since}"
    return "" if cancelled else f"waiting, because {lease.format_held(held, destination.lease)}"


def _tick(run: BatchRun, jobs: BatchJobs, bq: BigQueryClient, *, only_create: bool) -> Status:
    cancelled = batch_state.is_cancelled(run)
    number = batch_state.rounds_begun(run)
    if only_create and number > 1:
        return Status(run.run.run_id, number, busy="its jobs were created before")
    poor = False
    while True:
        prepared = batch_state.prepared(run, number)
        if prepared is None:
            if held := _held(run, bq, cancelled=cancelled):
                return Status(run.run.run_id, number, _views(run, number, jobs), busy=held)
            if cancelled:
                prepared = batch_state.abandon(run, number)
            else:
                prepared = batch_steps.prepare(run, number, batch_totals.allowed(run, number))
        expired = _is_over_deadline(run)
        views = list(_advance(run, prepared, jobs, bq, stop=cancelled or expired))
        if only_create and views:
            return Status(run.run.run_id, number, views)
        ended = [Ended(view.shard, view.job) for view in views if view.job is not None and view.phase == "ended"]
        if ended:
            batch_steps.collect(run, ended)
            views = [_view(view.shard, view.job) if view.phase == "ended" else view for view in views]
        if any(view.collected is None for view in views):
            return Status(run.run.run_id, number, views)
        left = sum(sum(view.collected.again.values()) for view in views if view.collected)
        if left and not cancelled and not all_jobs_failed(views):
            if expired and batch_state.rest_of(run) is None:
                if held := _held(run, bq):
                    return Status(run.run.run_id, number, views, busy=held)
                caps = batch_totals.caps_left(run, number)
                if caps == NOTHING_LEFT:
                    poor = True
                else:
                    batch_steps.ask_rest(run, number + 1, caps)
            elif not expired and number < run.batch.rounds:
                number += 1
                continue
        summary = batch_totals.finish_batch(
            run, number, bq, cancelled=cancelled, failed=all_jobs_failed(views), poor=poor
        )
        return Status(run.run.run_id, number, views, summary)


def _advance(
    run: BatchRun, prepared: Prepared, jobs: BatchJobs, bq: BigQueryClient, *, stop: bool
) -> Iterator[JobView]:
    """Brings every shard of a round one step forward; ``stop`` creates nothing and cancels what is open."""
    listed = _by_name(jobs, run)
    for shard in batch_totals.shards(run, prepared.shards[0].round - 1 if prepared.shards else 0):
        # All is read of an earlier round: a job that shows now was created without anybody knowing.
        for late in listed.get(shard.display_name, []):
            if not late.rule.terminal:
                jobs.cancel(late.name)
    for shard in prepared.shards:
        if not shard.lines:
            continue
        found = listed.get(shard.display_name, [])
        job = _job_of(run, shard, listed, jobs)
        view = _view(shard, job)
        if view.collected is None and job is None:
            # A supervisor may have died between the shard's files and its events.
            register(bq, run.run, shard)
            view = _without_job(run, shard, jobs, stop=stop)
            job = view.job
        if job is not None:
            for other in found:
                if other.name != job.name and not other.rule.terminal:
                    jobs.cancel(other.name)
            if view.collected is None and (job.rule.step is Step.CANCEL or (stop and not job.rule.terminal)):
                jobs.cancel(job.name)
        yield view


def _without_job(run: BatchRun, shard: Shard, jobs: BatchJobs, *, stop: bool) -> JobView:
    """Creates the job of a shard, unless somebody else may just have done it."""
    intent = shard.path("intent.json")
    mine = not stop and storage.create(intent, orjson.dumps({"at": utc_now()}))
    if not mine:
        said = storage.read(intent)
        waited = run.batch.grace_s if said is None else _seconds_since(orjson.loads(said)["at"])
        if said is not None and waited < run.batch.grace_s:
            return JobView(shard, "creating", note="a supervisor was about to create its job; waiting for it to show")
        if stop:
            return JobView(shard, "ended", _gone(run, shard, "", "CANCELLED", ""))
        storage.write(intent, orjson.dumps({"at": utc_now()}))
    source, destination = _places(run, shard)
    try:
        job = jobs.create(
            shard.display_name, run.run.task.model, source=source, destination=destination, labels=run.run.labels()
        )
    except NotCreatedError as refused:
        storage.delete(intent)
        return JobView(shard, "refused", note=str(refused))
    except UncertainError as unknown:
        return JobView(shard, "creating", note=str(unknown))
    except Exception:
        storage.delete(intent)
        raise
    _remember(shard, job)
    return _view(shard, job)


def _places(run: BatchRun, shard: Shard) -> tuple[str, str]:
    """Where a job reads and writes."""
    requests, results = (shard.table(run.run.outcomes, kind).dotted for kind in ("requests", "results"))
    source = f"bq://{requests}" if run.batch.source == "bigquery" else shard.path("requests.jsonl")
    return source, f"bq://{results}" if run.batch.destination == "bigquery" else shard.output_prefix


def _gone(run: BatchRun, shard: Shard, name: str, state: str, error: str) -> BatchJob:
    """What stands for a job that is not there: it may have written answers all the same."""
    table = shard.table(run.run.outcomes, "results").dotted if run.batch.destination == "bigquery" else None
    return BatchJob(name, shard.display_name, f"{PREFIX}{state}", output_table=table, error=error)


def _job_of(run: BatchRun, shard: Shard, listed: Mapping[str, Sequence[BatchJob]], jobs: BatchJobs) -> BatchJob | None:
    """The job of a shard: the one that was remembered, else the oldest of its name."""
    found = listed.get(shard.display_name, [])
    said = storage.read(shard.path("job.json"))
    if said is None:
        if not found:
            return None
        _remember(shard, found[0])
        return found[0]
    name = orjson.loads(said)["name"]
    for job in found:
        if job.name == name:
            return job
    # Somebody deleted it, and its files are what is left of it.
    return jobs.get(name) or _gone(run, shard, name, "FAILED", "the job was deleted")


def _remember(shard: Shard, job: BatchJob) -> None:
    storage.create(shard.path("job.json"), orjson.dumps({"name": job.name, "at": utc_now()}))


def _view(shard: Shard, job: BatchJob | None) -> JobView:
    collected = read_collected(shard)
    if collected is not None:
        known = rule_of(collected.state)
        return JobView(shard, "collected", job, collected, collected.error or ("" if known.known else known.reason))
    if job is None:
        return JobView(shard, "prepared")
    rule = job.rule
    note = job.error or ("" if rule.known else rule.reason)
    ended = rule.terminal and rule.step is not Step.CANCEL
    return JobView(shard, "ended" if ended else rule.phase, job, note=note)


def _by_name(jobs: BatchJobs, run: BatchRun) -> dict[str, list[BatchJob]]:
    found: dict[str, list[BatchJob]] = {}
    for job in jobs.named(display_prefix(run.run.run_id)):
        found.setdefault(job.display_name, []).append(job)
    return found


def all_jobs_failed(views: Sequence[JobView]) -> str:
    """Why another round would help nothing: every job failed without a line, not by a mishap; empty if one did not."""
    told = [view.collected for view in views if view.collected is not None]
    if any(
        found.lines or found.state != f"{PREFIX}FAILED" or found.error_code in RETRYABLE_RPC_CODES for found in told
    ):
        return ""
    return (told[0].error or "every job failed without an answer") if told else ""


def _is_over_deadline(run: BatchRun) -> bool:
    deadline = run.batch.deadline_s
    return deadline is not None and run.age_s(datetime.datetime.now(datetime.UTC)) > deadline


def _seconds_since(at: str) -> float:
    return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)).total_seconds()
