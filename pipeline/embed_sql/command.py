"""``imagebeam embed --lane=sql``: BigQuery asks the embedding model itself, with ``AI.GENERATE_EMBEDDING``.

For images in a bucket that BigQuery may read. Everything is a statement, shown by ``--dry_run``; tables,
outcomes, books, lease and exit codes are those of every lane.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import time
from decimal import Decimal
from typing import Any, cast

from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.embed_sql import setup as prepare
from imagebeam.pipeline.embed_sql import statements as embedding_sql
from imagebeam.pipeline.embed_sql.jobs import StatementError
from imagebeam.pipeline.embed_sql.passes import (
    LeaseKeeper,
    LeaseLostError,
    PassRunner,
    PassSettings,
    recover,
    run_error,
)
from imagebeam.pipeline.embed_sql.setup import Route, build_route
from imagebeam.pipeline.embed_sql.statements import StagingTable, Target, hash_task
from imagebeam.pipeline.run import checks, cost_estimate
from imagebeam.pipeline.run.assemble import build_run_settings
from imagebeam.pipeline.run.cost_estimate import Say
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.vector_index import create_vector_index
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.finish_run import finish
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import prepare_tables, write_event
from imagebeam.transforms.sql.embedding_tables import vector_index_sql
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile, cost_usd, estimate_usage


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """A run that may start.

    Attributes:
        run: Its settings.
        route: What it stands on.
        passes: How passes are made.
        planned: What the source holds, by state.
        make_dataset: Location of a results dataset that is to be made; None when it is there.
    """

    run: RunSettings
    route: Route
    passes: PassSettings
    planned: SourceCounts
    make_dataset: str | None


def run(settings: EmbedSettings) -> int:
    """Checks everything, says what it will cost, embeds what is due and tells the books.

    Returns:
        The exit code, as of every run.

    Raises:
        UserError: Something is wrong that a person can mend.
        SystemicError: BigQuery cannot be used; nothing that was embedded is lost.
    """
    console = Console(quiet=settings.quiet, json=settings.as_json)
    say = console.status
    bq = BigQueryClient(settings.project)
    ready = check(settings, bq, say)
    if settings.dry_run:
        console.print(*statements(ready))
        if settings.vector_index:
            console.print(f"-- create the vector index\n{vector_index_sql(ready.run.answers)};")
        return 0
    if ready.make_dataset:
        bq.create_dataset(ready.run.outcomes.project, ready.run.outcomes.dataset, ready.make_dataset)
        say(f"made dataset {ready.run.outcomes.project}.{ready.run.outcomes.dataset} in {ready.make_dataset}")
    started = time.monotonic()
    summary = embed_due(ready, bq, say)
    report.print_report(summary, ready.run.outcomes, took_s=time.monotonic() - started, as_json=settings.as_json)
    code = report.exit_code(summary, settings.max_failure_percent)
    if settings.vector_index:
        create_vector_index(settings, code, console)
    return code


def check(settings: EmbedSettings, bq: BigQueryClient, say: Say) -> Ready:
    """Checks a run before anything is made or paid, and says what was found and what it will cost.

    Raises:
        UserError: Something is wrong that a person can mend.
        SystemicError: BigQuery cannot be used.
    """
    task = settings.embed_task()
    if task.image.changes_images:
        raise UserError("--crop and --max_side change the images, which BigQuery reads as they are: use --lane=online")
    if settings.max_calls is not None:
        raise UserError("--max_calls counts calls, and BigQuery makes them itself: use --limit, or --lane=online")
    profile = catalog.load_models_file(settings.models_file).embedding(task.model)
    if warning := checks.retirement(profile):
        say(f"warning: {warning}")
    find_credentials()
    source, location = checks.resolve_source(settings, bq, say)
    filters = checks.build_filters(settings)
    filters.validate(source.columns, source=source.label)
    outcomes = TableName(*settings.results_dataset, "outcomes")
    make = checks.check_results(settings, bq, outcomes, location)
    storage.check_writable(settings.work_dir, location)
    route = build_route(settings, outcomes, location)
    like = settings.replace(lane=Lane.ONLINE, location=profile.locations[0])
    wanted = build_run_settings(like, task, profile, source, filters, outcomes, location)
    settled = _in_this_lane(wanted)
    planned = checks.plan(bq, settled)
    checks.check_lease(bq, settled)
    if partly := prepare.check_listed(route, settled, bq):
        say(f"warning: {partly}")
    price = price_of_one(profile, task)
    passes = PassSettings(
        call=route.model_call(task.dimension),
        rows=settings.rows_per_job,
        max_passes=settings.max_passes,
        pause_s=settings.pass_pause_s,
        price_usd=price,
    )
    _announce(settings, settled, profile, planned, route, say)
    buckets = prepare.buckets_of(source, route, bq, location)
    for line in prepare.foreign_buckets(route, buckets, settings.project):
        say(f"warning: {line}")
    return Ready(settled, dataclasses.replace(route, buckets=buckets), passes, planned, make)


def embed_due(ready: Ready, bq: BigQueryClient, say: Say) -> dict[str, Any]:
    """Makes what is missing, takes in what a dead run left, and embeds what is due.

    Returns:
        The run's summary.

    Raises:
        UserError: BigQuery refuses a part of the setup, or may read no image: says what to grant.
        SystemicError: BigQuery cannot be used, or the lease is lost.
    """
    settings = ready.run
    task = cast("EmbedTask", settings.task)
    prepare_tables(bq, settings)
    destination = settings.engine.destination
    assert destination is not None  # noqa: S101  (build_run_settings always gives one)
    assert destination.lease is not None  # noqa: S101
    lease.acquire(bq, destination.lease, settings.run_id)
    try:
        write_event(bq, settings, "start", state="RUNNING", host=socket.gethostname(), pid=os.getpid())
        keeper = LeaseKeeper(bq, destination.lease, settings.run_id)
        target = target_of(settings)
        runner = PassRunner(bq, target, ready.passes, keeper, settings.location, settings.labels(), say)
        first = StagingTable(settings.outcomes, hash_task(task.name), secrets.token_hex(6))
        with draining_on_signals(keeper.drain):
            try:
                prepare.make(ready.route, bq, f"imagebeam-embed-{first.key}", settings, keeper.keep_alive, say)
                recover(runner, first.task_hash)
                planned, counts = runner.run(build_remaining_query(settings.query_spec()), first)
            except (StatementError, LeaseLostError) as error:
                raise run_error(error) from None
        summary = finish(settings, planned, counts)
    finally:
        lease.release(bq, destination.lease, settings.run_id)
    if keeper.forbidden:
        raise UserError(prepare.unreadable(ready.route, settings.engine.call_settings.project, keeper.forbidden))
    return summary


def statements(ready: Ready) -> list[str]:
    """Every statement of a run, in its order, with what its parameters stand for; grants as comments."""
    target, passes = target_of(ready.run), ready.passes
    first = StagingTable(ready.run.outcomes, hash_task(target.task), "0" * 12)
    staged = dataclasses.replace(first, chunk=0)
    lines = prepare.statements(ready.route, ready.run)
    steps = {
        "store the remaining units in chunks": embedding_sql.pending_query(
            build_remaining_query(ready.run.query_spec()), first, target, rows=passes.rows
        ),
        "call the model for a chunk (once per chunk, at most 5 jobs at a time)": embedding_sql.embed_query(
            staged, passes.call
        ),
        "count the results of the chunk": embedding_sql.staged_counts_query(staged),
        "write the vectors": embedding_sql.insert_vectors_query(staged, target),
        "write the outcomes": embedding_sql.insert_outcomes_query(
            staged, target, last=False, price_usd=passes.price_usd
        ),
        "store the remainder for the next pass": embedding_sql.remainder_query(first, target, rows=passes.rows),
        "drop": embedding_sql.drop_query(staged),
    }
    for title, query in steps.items():
        lines += [f"-- {title}"]
        lines += [f"--   @{parameter.name} = {parameter.value!r}" for parameter in query.parameters]
        lines += [f"{query.sql};", ""]
    return lines


def target_of(settings: RunSettings) -> Target:
    """Whose outcomes a run writes."""
    task = cast("EmbedTask", settings.task)
    return Target(settings.outcomes, task.name, task.version, task.model, task.dimension, settings.run_id)


def price_of_one(profile: ModelProfile, task: EmbedTask) -> Decimal | None:
    """List price of one image in USD; None when it is not known."""
    return cost_usd(profile, Lane.ONLINE, estimate_usage(profile, task, 1)) if Lane.ONLINE in profile.prices else None


def _in_this_lane(run: RunSettings) -> RunSettings:
    call_settings = dataclasses.replace(run.engine.call_settings, lane=Lane.SQL, transport=Transport.URI)
    return dataclasses.replace(run, engine=dataclasses.replace(run.engine, call_settings=call_settings))


def _announce(
    settings: EmbedSettings, run: RunSettings, profile: ModelProfile, planned: SourceCounts, route: Route, say: Say
) -> None:
    """Says what will be done and what it will cost about.

    Raises:
        UserError: It is dear and nobody said yes, or dearer than the cap.
    """
    say(f"task     {run.task.name}, version {run.task.version}, {route.endpoint.text} in BigQuery, {run.location}")
    expected = cost_estimate.tell_due(run, profile, planned, embedding_sql.LANE, say)
    usd = expected.usd(profile, embedding_sql.LANE)
    if not usd:
        return
    say(f"cost     {cost_estimate.cost_text(expected, usd)}; and what BigQuery bills for its own work")
    cap = settings.max_cost_usd
    if cap is not None and usd > cap:
        raise UserError(
            f"this will cost about ${usd:,.2f}, more than --max_cost_usd={cap:f}, and a job of BigQuery cannot be "
            f"stopped at a cent: give --limit={int(cap * expected.calls / usd)} or less, or use --lane=online"
        )
    if not settings.dry_run:
        cost_estimate.confirm(settings, usd)
