"""The source query of a run: the remaining units with all data for their calls, and the counts by state.

The query is a chain of common table expressions::

    … chosen ─► joined ─► states ─► counted (the counts) and remaining_units

:mod:`~imagebeam.transforms.sql.source_units` builds the steps up to ``chosen``. Values are query parameters, and
names pass through :mod:`~imagebeam.transforms.core.identifiers`.
"""

from __future__ import annotations

from collections.abc import Mapping

from imagebeam.transforms.core.query import Parameter, Query
from imagebeam.transforms.sql.outcome_queries import EVENT_ORDER
from imagebeam.transforms.sql.selection import STATES, QuerySpec
from imagebeam.transforms.sql.source_units import asset_steps, source_steps
from imagebeam.transforms.sql.unit_rows import REMAINING_TYPES, UNIT_COLUMNS


def build_remaining_query(spec: QuerySpec) -> Query:
    """Build the query whose rows are the remaining units.

    Every row also has the column ``counts``, a STRUCT with the fields of
    :class:`~imagebeam.transforms.core.counts.SourceCounts`. Without remaining units the result is one row that has
    only ``counts``.

    Raises:
        UserError: The source does not support a filter, a kept column or the kind of unit.
    """
    steps, parameters = _steps(spec, spec.source.kept(spec.keep_columns))
    names = ", ".join(f"`{name}`" for name in REMAINING_TYPES)
    nulls = ", ".join(f"CAST(NULL AS {kind}) AS `{name}`" for name, kind in REMAINING_TYPES.items())
    steps["remaining_units"] = f"SELECT {names} FROM states WHERE is_remaining\nUNION ALL\nSELECT {nulls}"
    # Not counted LEFT JOIN remaining_units: BigQuery does not distribute an outer join without an equality. It does
    # distribute a cross join with one row; the row of NULLs passes only if it is the only one.
    last = (
        "SELECT counted.counts AS `counts`, remaining_units.*\nFROM remaining_units CROSS JOIN counted\n"
        "WHERE remaining_units.unit_id IS NOT NULL OR counted.counts.remaining = 0"
    )
    return Query(_with(steps, last), tuple(parameters))


def build_units_query(spec: QuerySpec) -> Query:
    """Build the query of all units of the source that pass the filters, whatever their state.

    Raises:
        UserError: The source does not support a filter, a kept column or the kind of unit.
    """
    parameters: list[Parameter] = []
    steps = source_steps(spec, spec.source.kept(spec.keep_columns), parameters)
    names = ", ".join(f"`{name}`" for name in UNIT_COLUMNS)
    return Query(_with(steps, f"SELECT {names} FROM chosen"), tuple(parameters))


def build_source_counts_query(spec: QuerySpec) -> Query:
    """Build the same query without the units: one row with the column ``counts``."""
    steps, parameters = _steps(spec, {})
    return Query(_with(steps, "SELECT counted.counts AS `counts` FROM counted"), tuple(parameters))


def _with(steps: Mapping[str, str], last: str) -> str:
    return "WITH " + ",\n".join(f"{name} AS (\n{sql}\n)" for name, sql in steps.items()) + f"\n{last}"


def _steps(spec: QuerySpec, kept: Mapping[str, str]) -> tuple[dict[str, str], list[Parameter]]:
    parameters: list[Parameter] = []
    assets = asset_steps(spec)
    steps = {
        **source_steps(spec, kept, parameters),
        **_states(spec, parameters),
        **assets,
        "counted": _counted(has_assets=bool(assets)),
    }
    return steps, parameters


def _states(spec: QuerySpec, parameters: list[Parameter]) -> dict[str, str]:
    selection, outcomes = spec.selection, spec.outcomes
    parameters.append(Parameter("selected_states", "STRING", tuple(selection.states), array=True))
    selected = "state IN UNNEST(@selected_states)"
    if selection.failed_reasons:
        parameters.append(Parameter("selected_reasons", "STRING", tuple(selection.failed_reasons), array=True))
        selected += (
            " AND (state != 'failed'\n    OR last_status IN UNNEST(@selected_reasons)"
            " OR IFNULL(last_reason, '') IN UNNEST(@selected_reasons))"
        )
    if spec.retry_round is not None and outcomes is not None:
        parameters += [
            Parameter("retry_run", "STRING", spec.run_id),
            Parameter("retry_round", "INT64", spec.retry_round),
        ]
        selected += "\n    AND IFNULL(last_run, '') = @retry_run AND @retry_round > 1"
    states = (
        f"SELECT *,\n  {selected} AS is_remaining,\n"
        "  IF(state = 'failed', CONCAT('failed:', IFNULL(last_reason, last_status)), state) AS state_detail\n"
        "FROM joined"
    )
    if outcomes is None:
        no_event = "CAST(NULL AS STRING) AS last_status, CAST(NULL AS STRING) AS last_reason"
        return {"joined": f"SELECT chosen.*, {no_event}, 'new' AS state FROM chosen", "states": states}
    parameters.append(Parameter("task", "STRING", spec.task))
    parameters.append(Parameter("version", "STRING", spec.version))
    same_input = "chosen.unit_id = {0}.unit_id AND chosen.input_digest = {0}.input_digest"
    return {
        "last_events": "SELECT unit_id, input_digest, status, reason, run_id\n"
        f"FROM {outcomes.sql()}\n"
        "WHERE task = @task AND version = @version\n"
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY unit_id, input_digest ORDER BY {EVENT_ORDER}) = 1",
        "other_versions": "SELECT DISTINCT unit_id, input_digest\n"
        f"FROM {outcomes.sql()}\n"
        "WHERE task = @task AND version != @version AND status = 'OK'",
        "joined": "SELECT chosen.*, last_events.status AS last_status, last_events.reason AS last_reason,\n"
        "  last_events.run_id AS last_run,\n"
        "  CASE\n"
        "    WHEN last_events.status = 'OK' THEN 'answered'\n"
        "    WHEN last_events.status = 'SUBMITTED' THEN 'submitted'\n"
        "    WHEN last_events.status IN ('UNAVAILABLE', 'SKIPPED') THEN 'retry'\n"
        "    WHEN last_events.status = 'IMAGE_ERROR' AND last_events.reason = 'FORBIDDEN' THEN 'retry'\n"
        "    WHEN last_events.status IS NOT NULL THEN 'failed'\n"
        "    WHEN other_versions.unit_id IS NOT NULL THEN 'outdated'\n"
        "    ELSE 'new'\n"
        "  END AS state\n"
        f"FROM chosen\nLEFT JOIN last_events ON {same_input.format('last_events')}\n"
        f"LEFT JOIN other_versions ON {same_input.format('other_versions')}",
        "states": states,
    }


def _counted(*, has_assets: bool) -> str:
    """Return the step that counts, under the names of the fields of ``SourceCounts``."""
    conditions = {
        "remaining": "is_remaining",
        **{f"remaining_{state}": f"is_remaining AND state = '{state}'" for state in STATES},
        "already_done": "state = 'answered'",
        "outdated": "NOT is_remaining AND state = 'outdated'",
        "failed_before": "NOT is_remaining AND state = 'failed'",
        "submitted": "state = 'submitted'",
        "left_out": "NOT is_remaining AND state IN ('new', 'retry')",
        "callable_units": "is_remaining AND has_uris",
    }
    sums = {"images": "SUM", "max_images_per_unit": "MAX"}
    aggregates = {
        "units_in": "COUNT(*)",
        **{name: f"COUNT(IF({condition}, 1, NULL))" for name, condition in conditions.items()},
        **{
            name: f"IFNULL({function}(IF(is_remaining AND has_uris, image_count, 0)), 0)"
            for name, function in sums.items()
        },
    }
    fields = {
        **{name: f"tally.{name}" for name in aggregates},
        "rows_without_id": "without_id.missing",
        "assets_without_images": "unseen_assets.unseen" if has_assets else "CAST(NULL AS INT64)",
    }
    return (
        f"SELECT STRUCT(\n  {_select_list(fields)}) AS counts\n"
        f"FROM (SELECT {_select_list(aggregates)} FROM states) AS tally\nCROSS JOIN without_id"
        + ("\nCROSS JOIN unseen_assets" if has_assets else "")
    )


def _select_list(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{sql} AS `{name}`" for name, sql in columns.items())
