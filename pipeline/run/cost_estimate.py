"""What a run will do and cost, said before it starts; above a threshold a person must say yes.

One estimate for every command that pays, and for ``imagebeam plan``: :mod:`imagebeam.transforms.tasks.forecast`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql import outcome_queries
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.sql.selection import Selection
from imagebeam.transforms.sql.sources import Source, canonical_sql
from imagebeam.transforms.tasks.forecast import (
    Forecast,
    Forecaster,
    History,
    changed_fields,
    history_from_rows,
)
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

CONFIRM_ABOVE_USD: Final = Decimal(20)
#: So many asset types or reasons are named at most.
MOST_NAMED: Final = 10

#: Takes a line for the person.
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """What changed of a task since the version that was used last.

    Attributes:
        since: That version.
        used_at: When a run used it last.
        fields: What differs, by name.
        usd: What it costs to ask again about what is outdated; None if nothing is, or the price is not known.
    """

    since: str
    used_at: str
    fields: tuple[str, ...]
    usd: Decimal | None


def announce(
    settings: ClassifySettings, run: RunSettings, profile: ModelProfile, planned: SourceCounts, say: Say
) -> Decimal:
    """Says what will be done and what it will cost about; gives the estimate in USD.

    Raises:
        UserError: It is dear, and nobody said yes.
        SystemicError: BigQuery cannot say what earlier answers took.
    """
    task = run.task
    say(f"task     {task.name}, version {task.version}, {task.model} at {settings.location}, {settings.lane}")
    expected = tell_due(run, profile, planned, settings.lane, say)
    if not planned.remaining:
        return Decimal(0)
    usd = expected.usd(profile, settings.lane)
    say(f"cost     {cost_text(expected, usd)}; images travel by {run.engine.call_settings.transport}")
    quota = profile.fixed_rpm(settings.location)
    if quota is not None and settings.max_rpm is None:
        least = format_duration(60 * expected.calls / quota)
        say(
            f"pace     at most {quota:,} calls a minute, the published quota of {task.model} here: {least} or more; "
            "--max_rpm gives the project's own"
        )
    confirm(settings, usd or Decimal(0))
    return usd or Decimal(0)


def tell_due(run: RunSettings, profile: ModelProfile, planned: SourceCounts, lane: Lane, say: Say) -> Forecast:
    """Says what is there by state and what changed of the task; gives what asking about the due units will take.

    Raises:
        SystemicError: BigQuery cannot say what earlier answers took.
    """
    bq = BigQueryClient(run.engine.call_settings.project)
    past = history(bq, run)
    if changed := describe_change(profile, run.task, past, planned, lane):
        say(change_line(changed, planned))
    tell_units(planned, say)
    for line in why_nothing(bq, run, planned):
        say(f"         {line}")
    return Forecaster(profile, run.task, past).forecast_remaining(planned)


def history(bq: BigQueryClient, run: RunSettings) -> History:
    """What is recorded of the run's task: what its answers took, and its versions.

    Raises:
        SystemicError: BigQuery cannot say.
    """
    task, rows = run.task, []
    for table, query in (
        (run.outcomes, outcome_queries.measured_query(run.outcomes, task.name, task.model)),
        (run.task_versions, outcome_queries.versions_query(run.task_versions, task.name)),
    ):
        there = bq.get_table(table) is not None
        rows.append(bq.query_rows(query, location=run.location) if there else [])
    return history_from_rows(*rows)


def cost_text(expected: Forecast, usd: Decimal | None) -> str:
    """What a run costs about, and what that is made of."""
    each = f" of about {expected.tokens / expected.calls:,.0f} tokens" if expected.tokens else ""
    price = "unknown, no price is known" if usd is None else f"about ${usd:,.2f} at list price"
    return f"{price}: {expected.calls:,} calls{each} ({expected.basis})"


def describe_change(
    profile: ModelProfile, task: Task, past: History, planned: SourceCounts, lane: Lane
) -> Changed | None:
    """What changed of the task since the version that was used last; None if nothing did, or it is new."""
    if not past.versions or past.versions[0].version == task.version:
        return None
    last = past.versions[0]
    usd = Forecaster(profile, task, past).forecast_outdated(planned).usd(profile, lane) if planned.outdated else None
    return Changed(last.version, last.used_at, changed_fields(last.definition, task.definition()), usd)


def change_line(changed: Changed, planned: SourceCounts) -> str:
    """The same in a line."""
    line = f"changed  {', '.join(changed.fields)} since version {changed.since} ({changed.used_at[:10]})"
    if not planned.outdated:
        return line
    price = "" if changed.usd is None else f", about ${changed.usd:,.2f} to ask again (--reprocess=outdated)"
    return f"{line}: {planned.outdated:,} outdated{price}; due now: {planned.remaining_new:,} new"


def tell_units(planned: SourceCounts, say: Say) -> None:
    """Says how many units of the source are in which state."""
    kinds = {
        "new": planned.remaining_new,
        "to retry": planned.remaining_retry,
        "outdated": planned.remaining_outdated,
        "failed before": planned.remaining_failed,
    }
    due = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
    states = {
        f"due ({due})" if due else "due": planned.remaining,
        "already done": planned.already_done,
        "outdated (--reprocess=outdated asks again)": planned.outdated,
        "failed before (--reprocess=failed asks again)": planned.failed_before,
        "submitted to a batch job": planned.submitted,
        "left out by --due": planned.left_out,
    }
    found = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    say(f"units    {planned.units_in:,} in: {found or 'nothing to do'}")
    if planned.remaining > planned.callable_units:
        without = planned.remaining - planned.callable_units
        say(f"         {without:,} of the due ones have no address of an image: no call, no cost")
    if planned.rows_without_id:
        one = planned.rows_without_id == 1
        rows, them = ("1 row has", "it") if one else (f"{planned.rows_without_id:,} rows have", "them")
        say(f"         {rows} no id: no unit can be made of {them}")
    if planned.assets_without_images:
        one = planned.assets_without_images == 1
        assets = "1 asset of the source has" if one else f"{planned.assets_without_images:,} assets of the source have"
        say(f"         {assets} no imagery at all")


def why_nothing(bq: BigQueryClient, run: RunSettings, planned: SourceCounts) -> list[str]:
    """Why there is nothing to ask about, where that may be a mistake: no units, or no failure of the given reason.

    Raises:
        SystemicError: BigQuery cannot say.
    """
    cap = run.maximum_bytes_billed
    if not planned.units_in and not planned.rows_without_id:
        look = asset_types_query(run.source) if run.filters.asset_types else any_row_query(run.source)
        rows = bq.query_rows(look, location=run.location, maximum_bytes_billed=cap)
        if not rows:
            return ["the source is empty"]
        line = f"the source has rows, but none passes {' and '.join(_given(run.filters)) or 'the filters'}"
        if not run.filters.asset_types:
            return [line]
        return [f"{line}; its asset types are {', '.join(str(row['asset_type'] or 'NULL') for row in rows)}"]
    if run.selection.failed_reasons and planned.failed_before and not planned.remaining_failed:
        due = build_remaining_query(dataclasses.replace(run, selection=Selection(("failed",))).query_spec())
        query = Query(
            "SELECT due.state_detail AS state, COUNT(*) AS units\n"
            f"FROM (\n{due.sql}\n) AS due\nWHERE due.unit_id IS NOT NULL\n"
            f"GROUP BY 1\nORDER BY 2 DESC, 1\nLIMIT {MOST_NAMED}",
            due.parameters,
        )
        rows = bq.query_rows(query, location=run.location, maximum_bytes_billed=cap)
        found = ", ".join(f"{str(row['state']).removeprefix('failed:')} {row['units']:,}" for row in rows)
        return [f"no unit failed for {' or '.join(run.selection.failed_reasons)}; failed before: {found}"]
    return []


def any_row_query(source: Source) -> Query:
    """A row if the source has any, whatever the filters."""
    return Query(f"SELECT 1 AS found FROM {source.sql()} AS source LIMIT 1")


def asset_types_query(source: Source) -> Query:
    """The most common asset types of the source, whatever the filters; no row when it is empty."""
    kind = canonical_sql(source, "asset_type", "source")
    return Query(
        f"SELECT {kind} AS asset_type, COUNT(*) AS found\nFROM {source.sql()} AS source\n"
        f"GROUP BY 1\nORDER BY 2 DESC, 1\nLIMIT {MOST_NAMED}"
    )


def _given(filters: Filters) -> list[str]:
    """The flags of the filters that can leave nothing."""
    flags = {"polygon": "polygon_file"}
    names = [field.name for field in dataclasses.fields(filters) if field.name != "limit"]
    return [f"--{flags.get(name, name)}" for name in names if getattr(filters, name)]


def confirm(settings: ClassifySettings, usd: Decimal) -> None:
    """Lets a run go on when it is cheap, capped, or a person said yes.

    Raises:
        UserError: None of these.
    """
    if usd > CONFIRM_ABOVE_USD and not settings.yes and settings.max_cost_usd is None:
        raise UserError(
            f"this will cost about ${usd:,.2f}: add --yes to go on, cap it with --max_cost_usd, or try "
            "--limit=100 first"
        )
