"""``imagebeam embed --lane=sql``: embed images inside BigQuery, with ``AI.GENERATE_EMBEDDING``.

The images must be in a bucket that BigQuery can read. ``--dry_run`` prints every statement. Tables, outcomes, counts,
lease and exit codes are those of every lane.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.embed_sql import setup
from imagebeam.pipeline.embed_sql import statements as sql
from imagebeam.pipeline.embed_sql.jobs import StatementError
from imagebeam.pipeline.embed_sql.passes import (
    LeaseKeeper,
    LeaseLostError,
    PassRunner,
    PassSettings,
    recover,
    run_error,
)
from imagebeam.pipeline.embed_sql.setup import SqlResources
from imagebeam.pipeline.embed_sql.staging import StagingTable, Target, hash_task
from imagebeam.pipeline.results.run_result import RunResult, ended_run
from imagebeam.pipeline.run import cost_estimate
from imagebeam.pipeline.run.cost_estimate import Report
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.resolved_run import ReadyRun
from imagebeam.pipeline.run.vector_index import create_vector_index
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.finish_run import finish
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import prepare_tables, write_event
from imagebeam.transforms.sql.embedding_tables import vector_index_sql
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile


@dataclasses.dataclass(frozen=True, slots=True)
class SqlRun:
    """A run of the SQL lane that may start.

    Attributes:
        run: Settings of the run.
        resources: Connection, model and object table.
        passes: Settings of the passes.
    """

    run: RunSettings
    resources: SqlResources
    passes: PassSettings


def run(ready: ReadyRun, resources: SqlResources, console: Console, show: Callable[[RunResult], None]) -> RunResult:
    """Announce the cost of a run, and embed the remaining images.

    Args:
        ready: A run that passed its checks.
        resources: Connection, model and object table.
        console: Where to print.
        show: Receives the result before the vector index is created.

    Raises:
        UserError: The user must fix or confirm something.
        SystemicError: BigQuery cannot be used. No embedding is lost.
    """
    settings = ready.resolved.settings
    assert isinstance(settings, EmbedSettings)  # noqa: S101  (only embed has the SQL lane)
    _announce(settings, ready, resources, console.status)
    sql_run = _prepare(settings, ready, resources, console)
    if settings.dry_run:
        lines = statements(sql_run)
        if settings.vector_index:
            lines.append(f"-- create the vector index\n{vector_index_sql(ready.run.answers)};")
        result = RunResult(ready.run, statements=tuple(lines))
        show(result)
        return result
    if created := ready.resolved.create_results_dataset():
        console.status(created)
    started = time.monotonic()
    summary = embed_remaining(sql_run, ready.resolved.bq, console.status)
    took_s = time.monotonic() - started
    result = ended_run(ready.run, summary, took_s=took_s, max_failure_percent=settings.max_failure_percent)
    show(result)
    if settings.vector_index:
        create_vector_index(settings, result.exit_code, console)
    return result


def _prepare(settings: EmbedSettings, ready: ReadyRun, resources: SqlResources, console: Console) -> SqlRun:
    task, resolved = settings.embed_task(), ready.resolved
    buckets = setup.sample_buckets(resolved.source, resources, resolved.bq, resolved.location)
    for warning in setup.foreign_bucket_warnings(resources, buckets, settings.project):
        console.warn(warning)
    passes = PassSettings(
        call=resources.model_call(task.dimension),
        rows=settings.rows_per_job,
        max_passes=settings.max_passes,
        pause_s=settings.pass_pause_s,
        price_usd=image_price_usd(resolved.profile, task),
    )
    return SqlRun(ready.run, dataclasses.replace(resources, buckets=buckets), passes)


def embed_remaining(sql_run: SqlRun, bq: BigQueryClient, status: Report) -> dict[str, Any]:
    """Create missing resources, recover runs that died, and embed the remaining images.

    Returns:
        The run's summary.

    Raises:
        UserError: BigQuery rejects a statement of the setup, or cannot read any image; the message names the
        missing role.
        SystemicError: BigQuery cannot be used, or the lease is lost.
    """
    settings, resources = sql_run.run, sql_run.resources
    prepare_tables(bq, settings)
    table = settings.lease
    assert table is not None  # noqa: S101  (build_run_settings always gives one)
    lease.acquire(bq, table, settings.run_id)
    try:
        write_event(bq, settings, "start", state="RUNNING", host=socket.gethostname(), pid=os.getpid())
        keeper = LeaseKeeper(bq, table, settings.run_id)
        target = build_target(settings)
        runner = PassRunner(bq, target, sql_run.passes, keeper, settings.location, settings.labels(), status)
        first = StagingTable(settings.outcomes, hash_task(target.task), secrets.token_hex(6))
        with draining_on_signals(keeper.drain):
            try:
                name = f"imagebeam-embed-{first.key}"
                setup.create_resources(resources, bq, name, settings, keeper.keep_alive, status)
                recover(runner, first.task_hash)
                source, counts = runner.run(build_remaining_query(settings.query_spec()), first)
            except (StatementError, LeaseLostError) as error:
                raise run_error(error) from None
        summary = finish(settings, source, counts)
    finally:
        lease.release(bq, table, settings.run_id)
    if keeper.forbidden:
        project = settings.engine.call_settings.project
        raise UserError(setup.unreadable_images_message(resources, project, keeper.forbidden))
    return summary


def statements(sql_run: SqlRun) -> list[str]:
    """Return every statement of a run in order, with parameter values, grants and the clean-up as comments."""
    target, passes = build_target(sql_run.run), sql_run.passes
    first = StagingTable(sql_run.run.outcomes, hash_task(target.task), "0" * 12)
    staged = dataclasses.replace(first, chunk=0)
    lines = setup.setup_statements(sql_run.resources, sql_run.run)
    steps = {
        "store the remaining units in chunks": sql.pending_query(
            build_remaining_query(sql_run.run.query_spec()), first, target, rows=passes.rows
        ),
        "call the model for a chunk (once per chunk, at most 5 jobs at a time)": sql.embed_query(staged, passes.call),
        "count the results of the chunk": sql.staged_counts_query(staged),
        "write the vectors": sql.insert_vectors_query(staged, target),
        "write the outcomes": sql.insert_outcomes_query(staged, target, last=False, price_usd=passes.price_usd),
        "store the remainder for the next pass": sql.remainder_query(first, target, rows=passes.rows),
        "drop": sql.drop_query(staged),
    }
    for title, query in steps.items():
        lines += [f"-- {title}"]
        lines += [f"--   @{parameter.name} = {parameter.value!r}" for parameter in query.parameters]
        lines += [f"{query.sql};", ""]
    if drops := sql_run.resources.clean_up():
        lines += ["-- clean up, when the lane is not used anymore:", *(f"--   {drop};" for drop in drops)]
    return lines


def build_target(settings: RunSettings) -> Target:
    """Return the target of the statements of a run."""
    task = cast("EmbedTask", settings.task)
    return Target(settings.outcomes, task.name, task.version, task.model, task.dimension, settings.run_id)


def image_price_usd(profile: ModelProfile, task: EmbedTask) -> Decimal | None:
    """Return the list price of one image; None if it is not known."""
    return cost_usd(profile, Lane.ONLINE, estimate_usage(profile, task, 1)) if Lane.ONLINE in profile.prices else None


def _announce(settings: EmbedSettings, ready: ReadyRun, resources: SqlResources, status: Report) -> None:
    """Report what the run will process and about what it will cost.

    Raises:
        UserError: The estimate is above the threshold and not confirmed, or above the cap.
    """
    task = ready.run.task
    status(f"task     {task.name}, version {task.version}, {resources.endpoint.text} in BigQuery, {ready.run.location}")
    expected = cost_estimate.report_units(ready, status)
    usd = expected.usd(ready.resolved.profile, sql.LANE)
    if not usd:
        return
    status(f"cost     {cost_estimate.format_cost(expected, usd)}; plus BigQuery charges")
    cap = settings.max_cost_usd
    if cap is not None and usd > cap:
        raise UserError(
            f"this will cost about ${usd:,.2f}, more than --max_cost_usd={cap:f}, and a BigQuery job cannot be "
            f"stopped at a cap: use --limit={int(cap * expected.calls / usd)} or less, or --lane=online"
        )
    if not settings.dry_run:
        cost_estimate.confirm(settings, usd)
