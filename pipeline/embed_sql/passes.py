"""Embed the remaining units in passes of SQL jobs, until no unit is left that can be retried.

Each chunk of a pass is embedded by one named job, whose result is a staging table; see
:mod:`imagebeam.pipeline.embed_sql.statements`. Vectors are written from there, then outcomes, then the table is
dropped. A later run first recovers the tables and jobs of a run that died.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import google.api_core.exceptions as api_errors

from imagebeam.pipeline.embed_sql import jobs as sql_jobs
from imagebeam.pipeline.embed_sql import statements
from imagebeam.pipeline.embed_sql.staging import NO_URI_CHUNK, StagingTable, Target
from imagebeam.pipeline.embed_sql.statements import ModelCall
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, failure_key, sum_counts
from imagebeam.transforms.core.errors import SystemicError, first_line
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.sql.unit_rows import source_counts_from_row

#: Failures that the next pass retries.
RETRYABLE = failure_key("UNAVAILABLE", "RETRYABLE")
FORBIDDEN = failure_key("IMAGE_ERROR", "FORBIDDEN")
#: Longest pause between two passes, in seconds.
LONGEST_PAUSE_S = 300.0


class LeaseLostError(Exception):
    """Another run holds the lease, so this run must not do anything more."""


@dataclasses.dataclass(frozen=True, slots=True)
class PassSettings:
    """Settings of the passes of a run.

    Attributes:
        call: How to call the model.
        rows: Maximum number of rows per job.
        max_passes: Maximum number of passes.
        pause_s: Seconds before the second pass; doubled after every pass that embeds nothing.
        jobs: Maximum number of concurrent jobs, 1 to 5.
        price_usd: Price of one image; None if it is not known.
    """

    call: ModelCall
    rows: int
    max_passes: int
    pause_s: float
    jobs: int = statements.CONCURRENT_JOBS
    price_usd: Decimal | None = None


@dataclasses.dataclass(slots=True)
class LeaseKeeper:
    """Extends the lease while jobs run, from any thread, and knows why to stop.

    Attributes:
        bq: BigQuery client.
        table: The lease.
        holder: The run that holds it.
        stop: Why no new job may be started; None to continue.
        forbidden: Status of a row of the trial, if no image can be read.
    """

    bq: BigQueryClient
    table: TableName
    holder: str
    stop: str | None = None
    forbidden: str | None = None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    _at: float = dataclasses.field(default_factory=time.monotonic)

    def drain(self, reason: str) -> str:
        """Start no new job; return what the run waits for."""
        self.stop = self.stop or reason
        return (
            "no new jobs; waiting for the running jobs (if you interrupt again, they continue in BigQuery, and the "
            "next run recovers their results)"
        )

    def keep_alive(self) -> None:
        """Extend the lease if enough time has passed.

        Raises:
            LeaseLostError: Another run holds the lease.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._at < lease.EXTEND_EVERY_S:
                return
            self._at = time.monotonic()
            if not lease.extend(self.bq, self.table, self.holder):
                self.stop = self.stop or "systemic: the lease is lost: another run has taken it"
                raise LeaseLostError
        finally:
            self._lock.release()


@dataclasses.dataclass(slots=True)
class PassRunner:
    """Runs the passes of one run.

    Attributes:
        bq: BigQuery client.
        target: The run whose outcomes are written.
        settings: Settings of the passes.
        keeper: The lease.
        location: Location of the dataset and the jobs.
        labels: Billing labels of the jobs.
        status: Prints a status line.
    """

    bq: BigQueryClient
    target: Target
    settings: PassSettings
    keeper: LeaseKeeper
    location: str
    labels: Mapping[str, str]
    status: Callable[[str], None]

    def run(self, remaining: Query, first: StagingTable) -> tuple[SourceCounts, OutcomeCounts]:
        """Embed the remaining units; those that cannot be processed now remain for the next run.

        Args:
            remaining: The query of the remaining units.
            first: The pending table of the first pass.

        Returns:
            The counts of the source, and the counts of the outcomes.
        """
        self._run(statements.pending_query(remaining, first, self.target, rows=self.settings.rows), first.job)
        (row,) = self._rows(statements.source_counts_query(first))
        source = source_counts_from_row(row)
        counts = self._run_passes(first, source.remaining) if source.remaining else OutcomeCounts()
        if not source.remaining:
            self.drop([first])
        missing = source.remaining - counts.ok - counts.failures
        return source, dataclasses.replace(counts, read=source.remaining, skipped=missing, stop=self.keeper.stop)

    def write_results(self, staged: StagingTable, *, last: bool) -> None:
        """Write the vectors of a chunk, then its outcomes; repeating it is harmless."""
        self._run(statements.insert_vectors_query(staged, self.target), f"{staged.job}-vectors")
        outcomes = statements.insert_outcomes_query(staged, self.target, last=last, price_usd=self.settings.price_usd)
        self._run(outcomes, f"{staged.job}-{'rest' if last else 'outcomes'}")

    def chunks(self, pending: StagingTable) -> list[int]:
        """Return the chunks of a pass."""
        return [int(row["chunk"]) for row in self._rows(statements.chunks_query(pending))]

    def drop(self, tables: Sequence[StagingTable]) -> None:
        """Drop staging tables."""
        for staging in tables:
            self.bq.drop_table(staging.table)

    def _run_passes(self, first: StagingTable, remaining: int) -> OutcomeCounts:
        pending, total, pause = first, OutcomeCounts(), self.settings.pause_s
        while True:
            results = self._run_pass(pending, self.chunks(pending), trial=pending.number == 1)
            retryable = sum(counts.failed.get(RETRYABLE, 0) for counts in results.values())
            done = sum(counts.ok + counts.failures for counts in results.values()) - retryable
            self.status(f"pass {pending.number}  {done:,} of {remaining:,} units done, {retryable:,} to retry")
            is_last = not retryable or self.keeper.stop is not None or pending.number >= self.settings.max_passes
            if is_last and retryable and self.keeper.stop is None:
                for chunk, counts in results.items():
                    if counts.failed.get(RETRYABLE):
                        self.write_results(dataclasses.replace(pending, chunk=chunk), last=True)
            elif retryable:
                results = {chunk: _without_retryable(counts) for chunk, counts in results.items()}
            total = total + sum_counts(results.values())
            following = dataclasses.replace(pending, number=pending.number + 1)
            if not is_last:
                pause = self.settings.pause_s if done else min(2 * pause, LONGEST_PAUSE_S)
                self._pause(pause)
                remainder = statements.remainder_query(pending, self.target, rows=self.settings.rows)
                self._run(remainder, following.job)
            self.drop([*(dataclasses.replace(pending, chunk=chunk) for chunk in results), pending])
            if is_last:
                return total
            pending = following

    def _run_pass(self, pending: StagingTable, chunks: Sequence[int], *, trial: bool) -> dict[int, OutcomeCounts]:
        """Embed the chunks of a pass; return the counts of every chunk that was started."""
        results: dict[int, OutcomeCounts] = {}
        alone = [chunk for chunk in chunks if chunk == NO_URI_CHUNK or (trial and chunk == 0)]
        for chunk in alone:
            if self.keeper.stop is None:
                results[chunk] = self._embed_chunk(dataclasses.replace(pending, chunk=chunk))
        if trial and 0 in results and set(results[0].failed) == {FORBIDDEN} and not results[0].ok:
            self.keeper.stop = self.keeper.stop or "systemic: no image can be read"
            rows = self._rows(statements.staged_counts_query(dataclasses.replace(pending, chunk=0)))
            self.keeper.forbidden = str(rows[0]["status"])
        others = [chunk for chunk in chunks if chunk not in alone]
        with ThreadPoolExecutor(self.settings.jobs, thread_name_prefix="embed") as threads:
            started = {
                chunk: threads.submit(self._start_chunk, dataclasses.replace(pending, chunk=chunk)) for chunk in others
            }
            ended = {chunk: future.result() for chunk, future in started.items()}
        return {**results, **{chunk: counts for chunk, counts in ended.items() if counts is not None}}

    def _start_chunk(self, staged: StagingTable) -> OutcomeCounts | None:
        if self.keeper.stop is not None:
            return None
        try:
            return self._embed_chunk(staged)
        except Exception:
            self.keeper.stop = self.keeper.stop or "systemic: a job failed"
            raise

    def _embed_chunk(self, staged: StagingTable) -> OutcomeCounts:
        self._run(statements.embed_query(staged, self.settings.call), staged.job)
        rows = self._rows(statements.staged_counts_query(staged))
        counts = sum_counts(self._count(row, called=staged.chunk != NO_URI_CHUNK) for row in rows)
        self.write_results(staged, last=False)
        return counts

    def _count(self, row: Mapping[str, Any], *, called: bool) -> OutcomeCounts:
        units = int(row["units"])
        calls = units if called else 0
        if row["outcome"] == "OK":
            price = self.settings.price_usd
            return OutcomeCounts(ok=units, calls=calls, cost_usd=None if price is None else units * price)
        key = failure_key(row["outcome"], row["reason"])
        return OutcomeCounts(failed={key: units}, calls=calls, throttled=units if key == RETRYABLE else 0)

    def _run(self, query: Query, name: str) -> None:
        keep_alive = self.keeper.keep_alive
        keep_alive()
        sql_jobs.run_job(self.bq, query, name, location=self.location, labels=self.labels, keep_alive=keep_alive)

    def _rows(self, query: Query) -> list[dict[str, Any]]:
        return self.bq.query_rows(query, location=self.location)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.keeper.stop is None and time.monotonic() < until:
            self.keeper.keep_alive()
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))


def recover(runner: PassRunner, task_hash: str) -> None:
    """Recover runs of this task that died: wait for their jobs, and write what they embedded.

    Args:
        runner: Of the current run; outcomes are written for the run that called the model.
        task_hash: The task, as the names of staging tables contain it.
    """
    bq, outcomes = runner.bq, runner.target.outcomes
    names = bq.list_tables(outcomes.project, outcomes.dataset)
    parsed = [StagingTable.read(dataclasses.replace(outcomes, table=name)) for name in sorted(names)]
    for pending in parsed:
        if pending is None or pending.task_hash != task_hash or pending.chunk is not None:
            continue
        target = Target.read(outcomes, _description(bq, pending.table))
        if target is None:
            continue
        theirs = dataclasses.replace(runner, target=target)
        chunks = [dataclasses.replace(pending, chunk=chunk) for chunk in theirs.chunks(pending)]
        staged = [chunk for chunk in chunks if _is_staged(runner, chunk)]
        for chunk in staged:
            theirs.write_results(chunk, last=False)
        runner.status(f"recovered {len(staged)} jobs of run {target.run_id}, which did not finish")
        theirs.drop([*staged, pending])


def _description(bq: BigQueryClient, table: TableName) -> str:
    """Return the description of a table; empty if it has none or does not exist."""
    try:
        return str(bq.client.get_table(table.dotted).description or "")
    except api_errors.NotFound:
        return ""
    except (api_errors.GoogleAPIError, OSError) as error:
        raise SystemicError(f"reading table {table.dotted}: {first_line(error)}") from None


def _is_staged(runner: PassRunner, chunk: StagingTable) -> bool:
    """Wait for the jobs of a chunk that are in progress; return whether its staging table exists."""
    for job in sql_jobs.find_jobs(runner.bq, chunk.job, location=runner.location):
        sql_jobs.wait_for_job(job, runner.keeper.keep_alive)
    return runner.bq.get_table(chunk.table) is not None


def _without_retryable(counts: OutcomeCounts) -> OutcomeCounts:
    failed = {key: units for key, units in counts.failed.items() if key != RETRYABLE}
    return dataclasses.replace(counts, failed=failed)


def run_error(error: Exception) -> SystemicError:
    """Return the error of the run for an error of one of its statements."""
    if isinstance(error, LeaseLostError):
        return SystemicError("the lease is lost: another run of this task has taken it; no results are lost")
    return SystemicError(f"BigQuery rejects a statement of the run: {error}")
