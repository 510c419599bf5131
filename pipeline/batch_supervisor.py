"""Moves batch runs forward: one :func:`tick` does all that can be done now, and doing it again does no harm.

A job is created once per shard and round. Who creates it first writes an intent, so that a supervisor that
dies leaves a trace; the next one looks for a job of that name in the list, and creates another only when none
has turned up for the grace time. Every other step finds what was done before by its name.
"""

from __future__ import annotations

import dataclasses
import datetime
import secrets
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.pipeline import batch_steps, batch_store
from imagebeam.pipeline.batch_store import BatchRun, Prepared, Rest
from imagebeam.transforms import lease, objects
from imagebeam.transforms.asking import utc_now
from imagebeam.transforms.batch_jobs import BatchJobs, NotCreatedError, UncertainError
from imagebeam.transforms.batch_shards import Shard, display_prefix
from imagebeam.transforms.batch_states import PREFIX, BatchJob, Step
from imagebeam.transforms.books import Counts, Planned
from imagebeam.transforms.build_batch_requests import register
from imagebeam.transforms.collect_batch import Collected, Ended, read_collected
from imagebeam.transforms.errors import UserError
from imagebeam.transforms.finish_run import finish, recount
from imagebeam.transforms.records import Usage
from imagebeam.transforms.warehouse import Warehouse

#: Failures that pass: what another round may answer.
PASSING = ("UNAVAILABLE", "IMAGE_ERROR/FORBIDDEN")


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


def tick(run: BatchRun, jobs: BatchJobs) -> Status:
    """Does all that can be done now for a run.

    Raises:
        SystemicError: It cannot go on; the run stays open, and nothing of it is lost.
    """
    warehouse = Warehouse(run.run.engine.asking.project)
    table = run.run.sibling(f"_lease_batch_{run.run.run_id}".replace("-", "_"))
    holder = f"{run.run.run_id}/{secrets.token_hex(4)}"
    try:
        lease.acquire(warehouse, table, holder)
    except UserError as held:
        return Status(run.run.run_id, busy=str(held))
    try:
        return _tick(run, jobs, warehouse)
    finally:
        lease.release(warehouse, table, holder)


def look(run: BatchRun, jobs: BatchJobs) -> Status:
    """Where a run is, without doing anything for it."""
    listed = _by_name(jobs, run)
    newest = batch_store.rounds_begun(run)
    views = [_view(shard, _job_of(shard, listed, jobs)) for shard in _shards(run, newest) if shard.lines]
    return Status(run.run.run_id, newest, views)


def _tick(run: BatchRun, jobs: BatchJobs, warehouse: Warehouse) -> Status:
    cancelled = batch_store.is_cancelled(run)
    number = batch_store.rounds_begun(run)
    while True:
        prepared = batch_store.prepared(run, number)
        if prepared is None:
            prepared = batch_steps.prepare(run, number, _allowed(run, number))
        expired = _is_over_deadline(run)
        views = list(_advance(run, prepared, jobs, warehouse, stop=cancelled or expired))
        ended = [Ended(view.shard, view.job) for view in views if view.job is not None and view.phase == "ended"]
        if ended:
            batch_steps.collect(run, ended)
            views = [_view(view.shard, view.job) if view.phase == "ended" else view for view in views]
        if any(view.collected is None for view in views):
            return Status(run.run.run_id, number, views)
        left = sum(sum(view.collected.again.values()) for view in views if view.collected)
        if left and not cancelled and not hopeless(views):
            if expired and batch_store.rest_of(run) is None:
                batch_steps.ask_rest(run, number + 1)
            elif not expired and number < run.batch.rounds:
                number += 1
                continue
        summary = _finish(run, number, warehouse, cancelled=cancelled, failed=hopeless(views))
        return Status(run.run.run_id, number, views, summary)


def _advance(
    run: BatchRun, prepared: Prepared, jobs: BatchJobs, warehouse: Warehouse, *, stop: bool
) -> Iterator[JobView]:
    """Brings every shard of a round one step forward; ``stop`` creates nothing and cancels what is open."""
    listed = _by_name(jobs, run)
    for shard in prepared.shards:
        if not shard.lines:
            continue
        found = listed.get(shard.display_name, [])
        job = _job_of(shard, listed, jobs)
        view = _view(shard, job)
        if view.collected is None and job is None:
            # A supervisor may have died between the shard's files and its events.
            register(warehouse, run.run, shard)
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
    mine = not stop and objects.create(intent, orjson.dumps({"at": utc_now()}))
    if not mine:
        said = objects.read(intent)
        waited = run.batch.grace_s if said is None else _seconds_since(orjson.loads(said)["at"])
        if said is not None and waited < run.batch.grace_s:
            return JobView(shard, "creating", note="a supervisor was about to create its job; waiting for it to show")
        if stop:
            return JobView(shard, "ended", BatchJob("", shard.display_name, f"{PREFIX}CANCELLED"))
        objects.write(intent, orjson.dumps({"at": utc_now()}))
    source, destination = _places(run, shard)
    try:
        job = jobs.create(
            shard.display_name, run.run.task.model, source=source, destination=destination, labels=run.run.labels()
        )
    except NotCreatedError as refused:
        objects.delete(intent)
        return JobView(shard, "refused", note=str(refused))
    except UncertainError as unknown:
        return JobView(shard, "creating", note=str(unknown))
    except Exception:
        objects.delete(intent)
        raise
    _remember(shard, job)
    return _view(shard, job)


def _places(run: BatchRun, shard: Shard) -> tuple[str, str]:
    """Where a job reads and writes."""
    requests, results = (shard.table(run.run.outcomes, kind).dotted for kind in ("requests", "results"))
    source = f"bq://{requests}" if run.batch.source == "bigquery" else shard.path("requests.jsonl")
    return source, f"bq://{results}" if run.batch.destination == "bigquery" else shard.output_prefix


def _job_of(shard: Shard, listed: Mapping[str, Sequence[BatchJob]], jobs: BatchJobs) -> BatchJob | None:
    """The job of a shard: the one that was remembered, else the oldest of its name."""
    found = listed.get(shard.display_name, [])
    said = objects.read(shard.path("job.json"))
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
    return jobs.get(name) or BatchJob(name, shard.display_name, f"{PREFIX}FAILED", error="the job was deleted")


def _remember(shard: Shard, job: BatchJob) -> None:
    objects.create(shard.path("job.json"), orjson.dumps({"name": job.name, "at": utc_now()}))


def _view(shard: Shard, job: BatchJob | None) -> JobView:
    collected = read_collected(shard)
    if collected is not None:
        return JobView(shard, "collected", job, collected)
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


def hopeless(views: Sequence[JobView]) -> str:
    """Why another round would help nothing: every job failed without a single line; empty if one did not."""
    told = [view.collected for view in views if view.collected is not None]
    if not told or any(found.lines or found.state != f"{PREFIX}FAILED" for found in told):
        return ""
    return told[0].error or "every job failed without an answer"


# -- budget and books --------------------------------------------------------------------------------------


def _allowed(run: BatchRun, number: int) -> int | None:
    """Units that the caps still allow in a round; None without caps."""
    caps = run.run.engine.caps
    if caps is None:
        return None
    before = _collected(run, number - 1)
    spent = sum((found.cost_usd for found in before), Decimal(0))
    asked = sum(found.units for found in before)
    limits = []
    if caps.max_calls is not None:
        limits.append(caps.max_calls - asked)
    if caps.max_cost_usd is not None:
        limits.append(int((caps.max_cost_usd - spent) / caps.worst_usd))
    return max(0, min(limits))


def _shards(run: BatchRun, rounds: int) -> Iterator[Shard]:
    """The shards of the first rounds, as far as they are prepared."""
    for number in range(1, rounds + 1):
        prepared = batch_store.prepared(run, number)
        yield from prepared.shards if prepared else ()


def _collected(run: BatchRun, rounds: int) -> list[Collected]:
    """What was collected in the first rounds."""
    found = (read_collected(shard) for shard in _shards(run, rounds))
    return [collected for collected in found if collected is not None]


def _finish(run: BatchRun, rounds: int, warehouse: Warehouse, *, cancelled: bool, failed: str) -> Mapping[str, Any]:
    """Adds up all rounds, balances the books and ends the run."""
    each = [batch_store.prepared(run, number) or Prepared(Planned()) for number in range(1, rounds + 1)]
    rest = batch_store.rest_of(run) or Rest()
    found = _collected(run, rounds)
    final: dict[str, int] = {}
    waiting: dict[str, int] = {}
    lost = 0
    for number, prepared in enumerate(each, 1):
        # What waited after one round is what the next one asks about; a unit whose row is gone goes on waiting.
        lost += max(0, sum(waiting.values()) - sum(shard.read - shard.skipped for shard in prepared.shards))
        waiting = {}
        for shard in prepared.shards:
            _sort(shard.problems, final, waiting)
        for part in (part for part in found if part.round == number):
            _sort(part.failed, final, waiting)
            _sort(part.again, final, waiting)
    if rest.read:
        lost += sum(waiting.values()) - rest.read + rest.skipped
        waiting = {}
        _sort(rest.failed, final, waiting)
    if lost:
        recorded = recount(warehouse, run.run, Counts())
        waiting = {key: count for key, count in recorded.failed.items() if key.startswith(PASSING)}
    _sort(waiting, final, final)
    first = each[0]
    skipped = sum(shard.skipped for shard in first.shards)
    stop = rest.stop
    if cancelled:
        stop = "interrupted: the batch run was cancelled"
    elif failed:
        stop = f"systemic: every batch job failed: {failed}"
    elif skipped:
        stop = "budget: the cap does not allow all units"
    counted = Counts(
        read=first.planned.due,
        ok=rest.ok + sum(part.ok for part in found),
        failed=final,
        skipped=skipped,
        calls=rest.calls + sum(part.units for part in found),
        usage=sum((part.usage for part in found), Usage()),
        cost_usd=sum((part.cost_usd for part in found), Decimal(0)),
        stop=stop,
    )
    return finish(run.run, first.planned, counted)


def _sort(failures: Mapping[str, int], final: dict[str, int], waiting: dict[str, int]) -> None:
    """Adds failures to those that are final, or to those that another round may mend."""
    for key, count in failures.items():
        into = waiting if key.startswith(PASSING) else final
        into[key] = into.get(key, 0) + count


def _is_over_deadline(run: BatchRun) -> bool:
    deadline = run.batch.deadline_s
    return deadline is not None and run.age_s(datetime.datetime.now(datetime.UTC)) > deadline


def _seconds_since(at: str) -> float:
    return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)).total_seconds()
