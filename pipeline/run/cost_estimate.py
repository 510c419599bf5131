"""What a run will process and cost, announced before it starts; above a threshold it needs confirmation.

The estimate is that of :mod:`imagebeam.transforms.tasks.forecast`, as in ``imagebeam plan``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from imagebeam.pipeline.run.resolved_run import ReadyRun
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql import outcome_queries
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.remaining_query import build_remaining_query, build_source_counts_query
from imagebeam.transforms.sql.selection import QuerySpec, Selection
from imagebeam.transforms.sql.sources import Source, canonical_sql
from imagebeam.transforms.sql.unit_rows import source_counts_from_row
from imagebeam.transforms.tasks.forecast import (
    Forecast,
    Forecaster,
    History,
    changed_fields,
    history_from_rows,
)

#: A run with a higher estimate needs ``--yes`` or ``--max_cost_usd``.
CONFIRM_ABOVE_USD: Final = Decimal(20)
#: Asset types or reasons that a message lists at most.
MAX_LISTED: Final = 10

#: Prints one line for the user.
Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """How a task differs from the version that was used last.

    Attributes:
        since: That version.
        used_at: When a run used it last, RFC 3339.
        fields: Names of the fields that differ.
        usd: Estimated cost of processing the outdated units again; None if there are none, or without a price.
    """

    since: str
    used_at: str
    fields: tuple[str, ...]
    usd: Decimal | None


def count_units(bq: BigQueryClient, run: RunSettings) -> SourceCounts:
    """Count the units of the source by state, with the run's query.

    Raises:
        UserError: BigQuery rejects the query.
        SystemicError: BigQuery cannot be used.
    """
    rows = bq.query_rows(
        source_counts_query(bq, run), location=run.location, maximum_bytes_billed=run.maximum_bytes_billed
    )
    return source_counts_from_row(rows[0])


def source_counts_query(bq: BigQueryClient, run: RunSettings) -> Query:
    """Build the query that counts the units of the source by state."""
    return build_source_counts_query(_query_spec(bq, run))


def remaining_query(bq: BigQueryClient, run: RunSettings) -> Query:
    """Build the run's query, also before its table of outcomes exists."""
    return build_remaining_query(_query_spec(bq, run))


def _query_spec(bq: BigQueryClient, run: RunSettings) -> QuerySpec:
    return run.query_spec(outcomes_exist=bq.get_table(run.outcomes) is not None)


def announce(ready: ReadyRun, report: Report) -> None:
    """Report what the run will process and about what it will cost.

    Raises:
        UserError: The estimate is above the threshold and was not confirmed.
        SystemicError: BigQuery cannot be used.
    """
    settings, task, profile = ready.resolved.settings, ready.resolved.task, ready.resolved.profile
    report(f"task     {task.name}, version {task.version}, {task.model} at {settings.location}, {settings.lane}")
    expected = report_units(ready, report)
    if not ready.counts.remaining:
        return
    usd = expected.usd(profile, settings.lane)
    report(f"cost     {format_cost(expected, usd)}; transport {ready.run.engine.call_settings.transport}")
    quota = profile.fixed_rpm(settings.location)
    if quota is not None and settings.max_rpm is None:
        least = format_duration(60 * expected.calls / quota)
        report(
            f"rate     at most {quota:,} calls per minute, the published quota of {task.model} here: {least} or more; "
            "set the project's own quota with --max_rpm"
        )
    confirm(settings, usd)


def report_units(ready: ReadyRun, report: Report) -> Forecast:
    """Report units by state and changes of the task; return what processing the remaining units takes.

    Raises:
        SystemicError: BigQuery cannot be used.
    """
    history = read_history(ready.resolved.bq, ready.run)
    if changed := describe_change(ready, history):
        report(format_change(changed, ready.counts))
    lines = format_units(ready.counts)
    lines += [f"         {line}" for line in explain_no_units(ready)]
    for line in lines:
        report(line)
    return Forecaster(ready.resolved.profile, ready.resolved.task, history).forecast_remaining(ready.counts)


def read_history(bq: BigQueryClient, run: RunSettings) -> History:
    """Read what is recorded of the run's task: usage of earlier answers, and its versions.

    Raises:
        SystemicError: BigQuery cannot be used.
    """
    task, rows = run.task, []
    for table, query in (
        (run.outcomes, outcome_queries.measured_query(run.outcomes, task.name, task.model)),
        (run.task_versions, outcome_queries.versions_query(run.task_versions, task.name)),
    ):
        exists = bq.get_table(table) is not None
        rows.append(bq.query_rows(query, location=run.location) if exists else [])
    return history_from_rows(*rows)


def format_cost(expected: Forecast, usd: Decimal | None) -> str:
    """Format the estimated cost of a run, its calls and its tokens."""
    tokens = f" of about {expected.tokens / expected.calls:,.0f} tokens" if expected.tokens else ""
    price = "unknown, the model has no price" if usd is None else f"about ${usd:,.2f} at list price"
    return f"{price}: {expected.calls:,} calls{tokens} ({expected.basis})"


def describe_change(ready: ReadyRun, history: History) -> Changed | None:
    """Compare the task with the version that was used last; None if it is the same, or the task is new."""
    task, profile, counts = ready.resolved.task, ready.resolved.profile, ready.counts
    if not history.versions or history.versions[0].version == task.version:
        return None
    last = history.versions[0]
    usd = None
    if counts.outdated:
        usd = Forecaster(profile, task, history).forecast_outdated(counts).usd(profile, ready.resolved.settings.lane)
    return Changed(last.version, last.used_at, changed_fields(last.definition, task.definition()), usd)


def format_change(changed: Changed, counts: SourceCounts) -> str:
    """Format a change of the task as one line."""
    line = f"changed  {', '.join(changed.fields)} since version {changed.since} ({changed.used_at[:10]})"
    if not counts.outdated:
        return line
    price = "" if changed.usd is None else f", about ${changed.usd:,.2f} to process again (--reprocess=outdated)"
    return f"{line}: {counts.outdated:,} outdated{price}; remaining now: {counts.remaining_new:,} new"


def format_units(counts: SourceCounts) -> list[str]:
    """Format the units of the source by state."""
    kinds = {
        "new": counts.remaining_new,
        "to retry": counts.remaining_retry,
        "outdated": counts.remaining_outdated,
        "failed before": counts.remaining_failed,
    }
    remaining = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
    states = {
        f"remaining ({remaining})" if remaining else "remaining": counts.remaining,
        "already done": counts.already_done,
        "outdated (process again with --reprocess=outdated)": counts.outdated,
        "failed before (process again with --reprocess=failed)": counts.failed_before,
        "submitted to a batch job": counts.submitted,
        "not selected by --due": counts.left_out,
    }
    found = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    lines = [f"units    {counts.units_in:,} in the source: {found or 'none'}"]
    if counts.remaining > counts.callable_units:
        number = counts.remaining - counts.callable_units
        lines.append(f"         {number:,} of the remaining units have no image URI: no call, no cost")
    if counts.rows_without_id:
        rows = "1 row has" if counts.rows_without_id == 1 else f"{counts.rows_without_id:,} rows have"
        lines.append(f"         {rows} no id and cannot be processed")
    if counts.assets_without_images:
        one = counts.assets_without_images == 1
        assets = "1 asset of the source has" if one else f"{counts.assets_without_images:,} assets of the source have"
        lines.append(f"         {assets} no images")
    return lines


def explain_no_units(ready: ReadyRun) -> list[str]:
    """Explain why there is nothing to process, where it may be a mistake.

    Raises:
        SystemicError: BigQuery cannot be used.
    """
    bq, run, counts = ready.resolved.bq, ready.run, ready.counts
    cap = run.maximum_bytes_billed
    if not counts.units_in and not counts.rows_without_id:
        query = asset_types_query(run.source) if run.filters.asset_types else any_row_query(run.source)
        rows = bq.query_rows(query, location=run.location, maximum_bytes_billed=cap)
        if not rows:
            return ["the source is empty"]
        line = f"the source has rows, but none matches {' and '.join(_filter_flags(run.filters)) or 'the filters'}"
        if not run.filters.asset_types:
            return [line]
        return [f"{line}; its asset types are {', '.join(str(row['asset_type'] or 'NULL') for row in rows)}"]
    if run.selection.failed_reasons and counts.failed_before and not counts.remaining_failed:
        failed = build_remaining_query(dataclasses.replace(run, selection=Selection(("failed",))).query_spec())
        query = Query(
            "SELECT failed.state_detail AS state, COUNT(*) AS units\n"
            f"FROM (\n{failed.sql}\n) AS failed\nWHERE failed.unit_id IS NOT NULL\n"
            f"GROUP BY 1\nORDER BY 2 DESC, 1\nLIMIT {MAX_LISTED}",
            failed.parameters,
        )
        rows = bq.query_rows(query, location=run.location, maximum_bytes_billed=cap)
        found = ", ".join(f"{str(row['state']).removeprefix('failed:')} {row['units']:,}" for row in rows)
        return [f"no unit failed with {' or '.join(run.selection.failed_reasons)}; failed before: {found}"]
    return []


def any_row_query(source: Source) -> Query:
    """Build a query for one row of the source, without the filters."""
    return Query(f"SELECT 1 AS found FROM {source.sql()} AS source LIMIT 1")


def asset_types_query(source: Source) -> Query:
    """Build a query for the most common asset types of the source, without the filters."""
    kind = canonical_sql(source, "asset_type", "source")
    return Query(
        f"SELECT {kind} AS asset_type, COUNT(*) AS found\nFROM {source.sql()} AS source\n"
        f"GROUP BY 1\nORDER BY 2 DESC, 1\nLIMIT {MAX_LISTED}"
    )


def _filter_flags(filters: Filters) -> list[str]:
    """Return the flags of the filters that can exclude every row."""
    flags = {"polygon": "polygon_file"}
    names = [field.name for field in dataclasses.fields(filters) if field.name != "limit"]
    return [f"--{flags.get(name, name)}" for name in names if getattr(filters, name)]


def confirm(settings: ClassifySettings, usd: Decimal | None) -> None:
    """Require ``--yes`` or a cap above the threshold.

    Args:
        settings: Settings of the run.
        usd: Its estimated cost; None if unknown.

    Raises:
        UserError: Neither is given.
    """
    if usd is not None and usd > CONFIRM_ABOVE_USD and not settings.yes and settings.max_cost_usd is None:
        raise UserError(
            f"this will cost about ${usd:,.2f}: add --yes to confirm, cap it with --max_cost_usd, or try "
            "--limit=100 first"
        )
