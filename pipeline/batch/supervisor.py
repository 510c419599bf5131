"""Move a batch run forward: :func:`reconcile` does everything that can be done now, and repeating it is harmless.

A job is created once per shard and round. Before it is created an intent file is written, so that the next process
can detect an interrupted creation: it looks for a job of that name in the list, and creates another one only if none
has appeared within the grace time. Every other step finds the results of an earlier attempt by their names.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence

import orjson

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import steps as batch_steps
from imagebeam.pipeline.batch import totals as batch_totals
from imagebeam.pipeline.batch.state import BatchRun, Prepared
from imagebeam.pipeline.batch.status import JobStatus, RunStatus
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.batch_shards import Shard
from imagebeam.transforms.build_batch_requests import register
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.batch_jobs import BatchJobs, NotCreatedError, UncertainError
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.collect_batch import Ended, read_collected
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import utc_now
from imagebeam.transforms.gemini.job_states import PREFIX, BatchJob, Step, rule_of

#: google.rpc.Code of a failed job that may succeed in the next round: UNKNOWN, DEADLINE_EXCEEDED,
#: RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE.
RETRYABLE_RPC_CODES = frozenset({2, 4, 8, 10, 13, 14})


def jobs_client(run: BatchRun) -> BatchJobs:
    """Create the client of the run's batch jobs."""
    call_settings = run.run.engine.call_settings
    return BatchJobs(call_settings.project, call_settings.location)


def reconcile(run: BatchRun, jobs: BatchJobs, *, only_create: bool = False) -> RunStatus:
    """Do everything that can be done for a run now.

    Args:
        run: The run.
        jobs: Client of its jobs.
        only_create: Create the jobs of the first round and leave everything after that to other processes. A run
            without jobs is ended.

    Raises:
        SystemicError: The run cannot continue. It stays open and loses nothing.
    """
    bq = BigQueryClient(run.run.engine.call_settings.project)
    table = run.run.sibling(f"_lease_batch_{run.run.run_id}".replace("-", "_"))
    holder = f"{run.run.run_id}/{secrets.token_hex(4)}"
    try:
        lease.acquire(bq, table, holder)
    except UserError as held:
        return RunStatus(run.run.run_id, waiting_for=str(held))
    try:
        # Only under the lease: the process that held it before may have ended the run.
        if (summary := read_json(run.run.summary_path)) is not None:
            return RunStatus(run.run.run_id, batch_state.newest_round(run), summary=summary)
        with _extending(bq, table, holder):
            return _reconcile(run, jobs, bq, only_create=only_create)
    finally:
        lease.release(bq, table, holder)


def read_status(run: BatchRun, number: int, jobs: BatchJobs, *, waiting_for: str = "") -> RunStatus:
    """Read the status of a run without changing anything.

    Args:
        run: The run.
        number: Its newest round.
        jobs: Client of its jobs.
        waiting_for: Why nothing can be done now.
    """
    listed = _list_jobs(jobs, run)
    shards = [shard for shard in batch_totals.load_shards(run, number) if shard.lines]
    statuses = [_job_status(shard, _find_job(run, shard, listed, jobs)) for shard in shards]
    return RunStatus(run.run.run_id, number, statuses, waiting_for=waiting_for)


@contextlib.contextmanager
def _extending(bq: BigQueryClient, table: TableName, holder: str) -> Iterator[None]:
    """Extend a lease in the background: writing requests and reading answers can take longer than it lasts."""
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


def _reconcile(run: BatchRun, jobs: BatchJobs, bq: BigQueryClient, *, only_create: bool) -> RunStatus:
    canceled = batch_state.is_canceled(run)
    number = batch_state.newest_round(run)
    if only_create and number > 1:
        return RunStatus(run.run.run_id, number, waiting_for="its jobs were created before")
    budget_exhausted = False
    while True:
        prepared = batch_state.load_prepared(run, number)
        if prepared is None:
            if held := _task_lease_holder(run, bq, canceled=canceled):
                return read_status(run, number, jobs, waiting_for=held)
            if canceled:
                prepared = batch_state.prepare_from_complete_shards(run, number)
            else:
                prepared = batch_steps.prepare(run, number, batch_totals.allowed_units(run, number))
        expired = run.batch.deadline_s is not None and run.age_s > run.batch.deadline_s
        statuses = list(_advance(run, prepared, jobs, bq, stop=canceled or expired))
        if only_create and statuses:
            return RunStatus(run.run.run_id, number, statuses)
        ended = [Ended(each.shard, each.job) for each in statuses if each.job is not None and each.phase == "ended"]
        if ended:
            batch_steps.collect(run, ended)
            statuses = [_job_status(each.shard, each.job) if each.phase == "ended" else each for each in statuses]
        if any(each.collected is None for each in statuses):
            return RunStatus(run.run.run_id, number, statuses)
        all_failed = all_jobs_failed(statuses)
        unanswered = sum(sum(each.collected.again.values()) for each in statuses if each.collected)
        if unanswered and not canceled and not all_failed:
            if expired and batch_state.load_remainder(run) is None:
                if held := _task_lease_holder(run, bq):
                    return RunStatus(run.run.run_id, number, statuses, waiting_for=held)
                budget_exhausted = batch_totals.allowed_units(run, number + 1) == 0
                if not budget_exhausted:
                    batch_steps.process_remainder(run, number + 1, batch_totals.remaining_caps(run, number))
            elif not expired and number < run.batch.rounds:
                number += 1
                continue
        summary = batch_totals.finish_batch(
            run,
            number,
            bq,
            canceled=canceled,
            all_jobs_failed=all_failed,
            budget_exhausted=budget_exhausted,
        )
        return RunStatus(run.run.run_id, number, statuses, summary)


def _task_lease_holder(run: BatchRun, bq: BigQueryClient, *, canceled: bool = False) -> str:
    """Return why the units of the next round cannot be selected now: another run of the task is selecting; or "".

    The other run may be this one on Dataflow. Then even a canceled run has to wait: its shards are not complete yet.
    """
    table = run.run.lease
    held = None if table is None else lease.read_holder(bq, table)
    if table is None or held is None or held.is_dead_here():
        return ""
    if held.run_id == run.run.run_id:
        return f"its requests are being written on {held.host}, since {held.since}"
    return "" if canceled else f"waiting, because {lease.format_held(held, table)}"


def _advance(
    run: BatchRun, prepared: Prepared, jobs: BatchJobs, bq: BigQueryClient, *, stop: bool
) -> Iterator[JobStatus]:
    """Move every shard of a round one step forward. With ``stop`` no job is created and open jobs are canceled."""
    # Creating many jobs takes a while: the grace time counts until the list was read, not until a shard's turn.
    listed_at = datetime.datetime.now(datetime.UTC)
    listed = _list_jobs(jobs, run)
    for shard in batch_totals.load_shards(run, prepared.shards[0].round - 1 if prepared.shards else 0):
        # Earlier rounds are collected: a job that appears only now was created by an attempt that got no response.
        _cancel_open(listed.get(shard.display_name, []), jobs)
    for shard in (shard for shard in prepared.shards if shard.lines):
        job = _find_job(run, shard, listed, jobs)
        status = _job_status(shard, job)
        if status.collected is None and job is None:
            # An earlier process may have died after it wrote the shard and before it registered its units.
            register(bq, run.run, shard)
            status = _create_job(run, shard, jobs, listed_at, stop=stop)
            job = status.job
        if job is not None:
            _cancel_open([other for other in listed.get(shard.display_name, []) if other.name != job.name], jobs)
            if status.collected is None and (job.rule.step is Step.CANCEL or (stop and not job.rule.terminal)):
                jobs.cancel(job.name)
        yield status


def _cancel_open(found: Sequence[BatchJob], jobs: BatchJobs) -> None:
    for job in found:
        if not job.rule.terminal:
            jobs.cancel(job.name)


def _create_job(run: BatchRun, shard: Shard, jobs: BatchJobs, listed_at: datetime.datetime, *, stop: bool) -> JobStatus:
    """Create the job of a shard, unless another process may just have created it."""
    intent = shard.path("intent.json")
    is_first = not stop and storage.create(intent, orjson.dumps({"at": utc_now()}))
    if not is_first:
        grace = datetime.timedelta(seconds=run.batch.grace_s)
        earlier = read_json(intent)
        if earlier and listed_at < datetime.datetime.fromisoformat(earlier["at"]) + grace:
            return JobStatus(
                shard, "creating", note="another process was about to create the job; waiting for it to appear"
            )
        if stop:
            return JobStatus(shard, "ended", _missing_job(run, shard, "", "CANCELLED", ""))
        storage.write(intent, orjson.dumps({"at": utc_now()}))
    requests, results = (shard.table(run.run.outcomes, kind).dotted for kind in ("requests", "results"))
    try:
        job = jobs.create(
            shard.display_name,
            run.run.engine.call_settings.job_model or run.run.task.model,
            source=f"bq://{requests}" if run.batch.source == "bigquery" else shard.path("requests.jsonl"),
            destination=f"bq://{results}" if run.batch.destination == "bigquery" else shard.output_prefix,
            labels=run.run.labels(),
        )
    except NotCreatedError as error:
        storage.delete(intent)
        return JobStatus(shard, "refused", note=str(error))
    except UncertainError as error:
        return JobStatus(shard, "creating", note=str(error))
    except Exception:
        storage.delete(intent)
        raise
    _save_job(shard, job)
    return _job_status(shard, job)


def _missing_job(run: BatchRun, shard: Shard, name: str, state: str, error: str) -> BatchJob:
    """Return the record of a job that does not exist. It may have written answers before it was deleted."""
    table = shard.table(run.run.outcomes, "results").dotted if run.batch.destination == "bigquery" else None
    return BatchJob(name, shard.display_name, f"{PREFIX}{state}", output_table=table, error=error)


def _find_job(
    run: BatchRun, shard: Shard, listed: Mapping[str, Sequence[BatchJob]], jobs: BatchJobs
) -> BatchJob | None:
    """Return the job of a shard: the one in its job file, or else the oldest job of its name."""
    found = listed.get(shard.display_name, [])
    saved = read_json(shard.path("job.json"))
    if saved is None:
        if found:
            _save_job(shard, found[0])
        return found[0] if found else None
    name = saved["name"]
    listed_job = next((job for job in found if job.name == name), None)
    # Without one the job was deleted; its output may still exist.
    return listed_job or jobs.get(name) or _missing_job(run, shard, name, "FAILED", "the job was deleted")


def _save_job(shard: Shard, job: BatchJob) -> None:
    storage.create(shard.path("job.json"), orjson.dumps({"name": job.name, "at": utc_now()}))


def _job_status(shard: Shard, job: BatchJob | None) -> JobStatus:
    collected = read_collected(shard)
    if collected is not None:
        rule = rule_of(collected.state)
        return JobStatus(shard, "collected", job, collected, collected.error or ("" if rule.known else rule.reason))
    if job is None:
        return JobStatus(shard, "prepared")
    rule = job.rule
    ended = rule.terminal and rule.step is not Step.CANCEL
    return JobStatus(
        shard, "ended" if ended else rule.phase, job, note=job.error or ("" if rule.known else rule.reason)
    )


def _list_jobs(jobs: BatchJobs, run: BatchRun) -> dict[str, list[BatchJob]]:
    """List the run's jobs by name, the oldest of each name first."""
    found: dict[str, list[BatchJob]] = {}
    for job in jobs.named(run.job_prefix):
        found.setdefault(job.display_name, []).append(job)
    return found


def all_jobs_failed(statuses: Sequence[JobStatus]) -> str:
    """Return the error if every job failed without output and would fail again; empty if another round may help."""
    collected = [each.collected for each in statuses if each.collected is not None]
    if any(
        each.lines or each.state != f"{PREFIX}FAILED" or each.error_code in RETRYABLE_RPC_CODES for each in collected
    ):
        return ""
    return (collected[0].error or "every job failed without an answer") if collected else ""
