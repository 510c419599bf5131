"""The one query of a run: which units are due, with all that asking about them needs, and the books.

The chain of common table expressions, each a step that can be read on its own::

    raw ─► observations ─► newest ─► units ─► chosen ─► states ─► counted (books) and due_units

Values are parameters; names pass through :mod:`identifiers`. Plain GoogleSQL, nothing that writes.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, column, column_path
from imagebeam.transforms.core.query import Parameter, Query, check_expression
from imagebeam.transforms.core.records import Image, Unit, UnitKind
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.outcome_queries import EVENT_ORDER, answered_units_query, run_counts_query
from imagebeam.transforms.sql.selection import STATES, Selection, SourceCounts, parse_due, source_counts_from_row
from imagebeam.transforms.sql.sources import CANONICAL, Source, canonical_sql

__all__ = [
    "UNIT_COLUMNS",
    "Parameter",
    "Query",
    "Selection",
    "SourceCounts",
    "answered_units_query",
    "build_remaining_query",
    "build_source_counts_query",
    "parse_due",
    "run_counts_query",
    "source_counts_from_row",
    "unit_from_row",
]


MAX_IMAGES = 10

_IMAGE_FIELDS = {
    "observation_id": "STRING",
    "uri": "STRING",
    "capture_time": "TIMESTAMP",
    **dict.fromkeys(("heading", "pitch", "roll", "x0", "y0", "x1", "y1"), "FLOAT64"),
}
#: What a gs:// URI that is sent looks like, near enough to count calls (:func:`~images.checked_uri` is exact).
_ADDRESS = "r'^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/.'"
_IMAGES_TYPE = f"ARRAY<STRUCT<{', '.join(f'{name} {kind}' for name, kind in _IMAGE_FIELDS.items())}>>"
#: What describes the unit: of the newest image, if it has several.
_ABOUT = {
    "asset_id": "STRING",
    "asset_type": "STRING",
    "snapshot_id": "STRING",
    "capture_time": "TIMESTAMP",
    "latitude": "FLOAT64",
    "longitude": "FLOAT64",
    "map_url": "STRING",
    "extra": "STRING",
}
_UNIT = {
    "unit_id": "STRING",
    "unit_type": "STRING",
    "input_digest": "STRING",
    "images": _IMAGES_TYPE,
    **_ABOUT,
    "due_state": "STRING",
}

#: The columns of a result row that :func:`unit_from_row` reads.
UNIT_COLUMNS = tuple(name for name in _UNIT if name != "due_state")


def build_remaining_query(
    *,
    source: Source,
    filters: Filters,
    unit: UnitKind,
    max_images: int,
    keep_columns: Sequence[str],
    outcomes: TableName | None,
    task: str,
    version: str,
    due: Selection,
    again: tuple[str, int] | None = None,
) -> Query:
    """The query whose rows are the units that are due.

    Every row also has the column ``books`` (see :class:`due.SourceCounts`); if nothing is due there is one row,
    with the books and nothing else.

    Args:
        source: Where observations come from.
        filters: Which of them; checked here.
        unit: What one call answers.
        max_images: So many of an asset's newest images, 1 to 10; without meaning for observations.
        keep_columns: Columns of the source that are kept in ``extra``.
        outcomes: The table of outcomes; None while there is none: then every unit is new.
        task: Name of the task.
        version: Its current version.
        due: Which states are asked about.
        again: Only units whose newest event is of this run, and which round of it asks: every round is
            another query. None for all units.

    Raises:
        UserError: A filter, a kept column or the unit does not fit the source.
    """
    steps, parameters = _steps(
        source, filters, unit, max_images, source.kept(keep_columns), outcomes, task, version, due, again
    )
    names = ", ".join(f"`{name}`" for name in _UNIT)
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS `{name}`" for name, kind in _UNIT.items())
    steps["due_units"] = f"SELECT {names} FROM states WHERE is_due\nUNION ALL\nSELECT {nothing}"
    # Not counted LEFT JOIN due_units: an outer join without an equality is nothing that BigQuery spreads
    # over its workers. A cross join with one row is; the row of NULLs goes through when it is the only one.
    last = (
        "SELECT counted.books AS `books`, due_units.*\nFROM due_units CROSS JOIN counted\n"
        "WHERE due_units.unit_id IS NOT NULL OR counted.books.due = 0"
    )
    return Query(_with(steps, last), tuple(parameters))


def build_source_counts_query(
    *,
    source: Source,
    filters: Filters,
    unit: UnitKind,
    max_images: int,
    outcomes: TableName | None,
    task: str,
    version: str,
    due: Selection,
) -> Query:
    """The same query, but only its books: one row with the column ``books``. For the announcement."""
    steps, parameters = _steps(source, filters, unit, max_images, {}, outcomes, task, version, due)
    return Query(_with(steps, "SELECT counted.books AS `books` FROM counted"), tuple(parameters))


def unit_from_row(row: Mapping[str, Any]) -> Unit:
    """The unit of a result row of :func:`build_remaining_query`."""
    extra = row.get("extra")
    return Unit(
        unit_id=row["unit_id"],
        unit_type=UnitKind(row["unit_type"]),
        input_digest=row["input_digest"],
        images=tuple(_image(image) for image in row["images"]),
        asset_id=row["asset_id"],
        asset_type=row["asset_type"],
        snapshot_id=row["snapshot_id"],
        capture_time=_rfc3339(row["capture_time"]),
        latitude=row["latitude"],
        longitude=row["longitude"],
        map_url=row["map_url"],
        extra=orjson.loads(extra) if extra else {},
    )


def _image(row: Mapping[str, Any]) -> Image:
    corners = (row["x0"], row["y0"], row["x1"], row["y1"])
    return Image(
        observation_id=row["observation_id"],
        uri=row["uri"],
        capture_time=_rfc3339(row["capture_time"]),
        heading=row["heading"],
        pitch=row["pitch"],
        roll=row["roll"],
        bbox=None if None in corners else corners,
    )


def _rfc3339(time: datetime.datetime | None) -> str | None:
    return None if time is None else time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _with(steps: Mapping[str, str], last: str) -> str:
    return "WITH " + ",\n".join(f"{name} AS (\n{sql}\n)" for name, sql in steps.items()) + f"\n{last}"


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions) or 'TRUE'}"


def _steps(
    source: Source,
    filters: Filters,
    unit: UnitKind,
    max_images: int,
    kept: Mapping[str, str],
    outcomes: TableName | None,
    task: str,
    version: str,
    due: Selection,
    again: tuple[str, int] | None = None,
) -> tuple[dict[str, str], list[Parameter]]:
    filters.validate(source.columns, source=source.label)
    if unit == UnitKind.ASSET and "asset_id" not in source.columns:
        raise UserError(f"unit: asset needs asset_id, which {source.label} does not have; use unit: observation")
    if not 1 <= max_images <= MAX_IMAGES:
        raise UserError(f"max_images is {max_images}; give 1 to {MAX_IMAGES}")
    place, place_parameters = filters.place_conditions()
    window, window_parameters = filters.window_conditions()
    parameters = [*place_parameters, *window_parameters]
    steps = {
        "raw": _raw(source, filters),
        "observations": _observations(source, kept, unit),
        "passing": f"SELECT * FROM observations\n{_where([*place, *window])}",
        **_newest(source, unit, filters, parameters),
        "units": _asset_units(max_images) if unit == UnitKind.ASSET else _observation_units(),
        "chosen": "SELECT * FROM units"
        + (f"\nORDER BY TO_HEX(SHA256(unit_id)), unit_id\nLIMIT {int(filters.limit)}" if filters.limit else ""),
        **_states(outcomes, task, version, due, again, parameters),
        **_assets(source, place),
        "counted": _counted(has_assets=_knows_assets(source)),
    }
    return steps, parameters


def _raw(source: Source, filters: Filters) -> str:
    # The closing brackets stand on lines of their own: what a person wrote may end in a comment.
    given = source.table.sql() if source.table else f"(\n{source.query}\n)"
    condition = "" if filters.where is None else f"\nWHERE (\n{check_expression(filters.where, where='--where')}\n)"
    return f"SELECT source.* FROM {given} AS source{condition}"


def _observations(source: Source, kept: Mapping[str, str], unit: UnitKind) -> str:
    columns = [f"{canonical_sql(source, name, 'raw')} AS `{name}`" for name in CANONICAL]
    unit_column = "asset_id" if unit == UnitKind.ASSET else "observation_id"
    columns.append(f"{canonical_sql(source, unit_column, 'raw')} AS `unit_id`")
    if kept:
        fields = ", ".join(f"raw.{column_path(path)} AS {column(name)}" for name, path in kept.items())
        columns.append(f"TO_JSON_STRING(STRUCT({fields})) AS `extra`")
    else:
        columns.append("CAST(NULL AS STRING) AS `extra`")
    return "SELECT\n  " + ",\n  ".join(columns) + "\nFROM raw"


def _newest(source: Source, unit: UnitKind, filters: Filters, parameters: list[Parameter]) -> dict[str, str]:
    """Each observation once, as the newest snapshot has it; the sample is taken here, before anything is sorted."""
    conditions = ["unit_id IS NOT NULL", "observation_id IS NOT NULL"]
    percent = filters.sample_percent
    if percent is not None and percent < 100:
        # The first eight hex digits of the hash, compared as text: they sort as the number that they are.
        conditions.append("SUBSTR(TO_HEX(SHA256(unit_id)), 1, 8) < @sample_below")
        parameters.append(Parameter("sample_below", "STRING", f"{max(1, round(percent / 100 * 2**32)):08x}"))
    age = "snapshot_id DESC, detection_time DESC, capture_time DESC, uri DESC"
    where = _where(conditions)
    once = "QUALIFY ROW_NUMBER() OVER (PARTITION BY observation_id ORDER BY {}) = 1"
    missing = "unit_id IS NULL" if unit == UnitKind.OBSERVATION else "unit_id IS NULL OR observation_id IS NULL"
    steps = {"without_id": f"SELECT COUNT(*) AS missing FROM passing WHERE {missing}"}
    if source.snapshots is None:
        return {**steps, "newest": f"SELECT * FROM passing\n{where}\n{once.format(age)}"}
    steps["snapshot_times"] = (
        "SELECT CAST(snapshot_id AS STRING) AS snapshot_id, MAX(creation_time) AS created\n"
        f"FROM {source.snapshots.sql()}\nGROUP BY 1"
    )
    steps["dated"] = (
        "SELECT passing.*, snapshot_times.created\nFROM passing\n"
        "LEFT JOIN snapshot_times ON passing.snapshot_id = snapshot_times.snapshot_id"
    )
    return {**steps, "newest": f"SELECT * FROM dated\n{where}\n{once.format(f'created DESC, {age}')}"}


def _image_struct() -> str:
    return f"STRUCT({', '.join(f'{name} AS {name}' for name in _IMAGE_FIELDS)})"


def addressed(uri: str = "uri") -> str:
    """Whether a call can be made about an image, as SQL."""
    return f"REGEXP_CONTAINS(IFNULL({uri}, ''), {_ADDRESS})"


def _observation_units() -> str:
    return (
        "SELECT unit_id, 'observation' AS unit_type, TO_HEX(SHA256(observation_id)) AS input_digest,\n"
        f"  [{_image_struct()}] AS images,\n  1 AS image_count, {addressed()} AS addressed,\n"
        f"  {', '.join(_ABOUT)}\nFROM newest"
    )


def _asset_units(max_images: int) -> str:
    # Position 1 is the newest image that there is; what is sent goes from the oldest to the newest.
    about = ",\n  ".join(f"MAX(IF(position = 1, {name}, NULL)) AS {name}" for name in _ABOUT)
    return (
        "SELECT unit_id, 'asset' AS unit_type,\n"
        "  TO_HEX(SHA256(STRING_AGG(observation_id, ',' ORDER BY position DESC))) AS input_digest,\n"
        f"  ARRAY_AGG({_image_struct()} ORDER BY position DESC) AS images,\n"
        f"  COUNT(*) AS image_count, LOGICAL_AND({addressed()}) AS addressed,\n  {about}\n"
        "FROM (\n"
        "  SELECT newest.*,\n"
        "    COUNT(uri) OVER (PARTITION BY unit_id) AS with_uri,\n"
        "    ROW_NUMBER() OVER (\n"
        "      PARTITION BY unit_id ORDER BY uri IS NULL, capture_time DESC, observation_id DESC) AS position\n"
        "  FROM newest\n"
        ")\n"
        f"WHERE position <= {int(max_images)} AND (uri IS NOT NULL OR with_uri = 0)\n"
        "GROUP BY unit_id"
    )


def _states(
    outcomes: TableName | None,
    task: str,
    version: str,
    due: Selection,
    again: tuple[str, int] | None,
    parameters: list[Parameter],
) -> dict[str, str]:
    parameters.append(Parameter("due_states", "STRING", tuple(due.states), array=True))
    wanted = "state IN UNNEST(@due_states)"
    if due.failed_reasons:
        parameters.append(Parameter("due_reasons", "STRING", tuple(due.failed_reasons), array=True))
        wanted += (
            " AND (state != 'failed'\n    OR last_status IN UNNEST(@due_reasons)"
            " OR IFNULL(last_reason, '') IN UNNEST(@due_reasons))"
        )
    if again is not None and outcomes is not None:
        parameters += [Parameter("again_run", "STRING", again[0]), Parameter("again_round", "INT64", again[1])]
        wanted += "\n    AND last_run = @again_run AND @again_round > 1"
    asked = (
        f"SELECT *,\n  {wanted} AS is_due,\n"
        "  IF(state = 'failed', CONCAT('failed:', IFNULL(last_reason, last_status)), state) AS due_state\n"
        "FROM joined"
    )
    if outcomes is None:
        nothing = "CAST(NULL AS STRING) AS last_status, CAST(NULL AS STRING) AS last_reason"
        return {"joined": f"SELECT chosen.*, {nothing}, 'new' AS state FROM chosen", "states": asked}
    parameters.append(Parameter("task", "STRING", task))
    parameters.append(Parameter("version", "STRING", version))
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
        "states": asked,
    }


def _knows_assets(source: Source) -> bool:
    return source.assets is not None and "asset_id" in source.columns


def _assets(source: Source, place: Sequence[str]) -> dict[str, str]:
    """How many assets no observation shows. Of the kind and place asked for: nothing else can be said of them."""
    if source.assets is None or not _knows_assets(source):
        return {}
    given = source.table.sql() if source.table else f"(\n{source.query}\n)"
    return {
        "all_assets": "SELECT asset_id, asset_type, location.latitude AS latitude, location.longitude AS longitude\n"
        f"FROM {source.assets.sql()}",
        "seen_assets": f"SELECT DISTINCT {canonical_sql(source, 'asset_id', 'source')} AS asset_id\n"
        f"FROM {given} AS source",
        "unseen_assets": "SELECT COUNT(DISTINCT listed.asset_id) AS unseen\n"
        f"FROM (SELECT * FROM all_assets {_where(place)}) AS listed\n"
        "LEFT JOIN seen_assets ON listed.asset_id = seen_assets.asset_id\n"
        "WHERE seen_assets.asset_id IS NULL",
    }


def _counted(*, has_assets: bool) -> str:
    counts = ["COUNT(*) AS `units_in`", "COUNT(IF(is_due, 1, NULL)) AS `due`"]
    counts += [f"COUNT(IF(state = '{state}', 1, NULL)) AS `{state}`" for state in ("answered", "submitted", *STATES)]
    counts += [f"COUNT(IF(is_due AND state = '{state}', 1, NULL)) AS `due_{state}`" for state in STATES]
    sent = "IF(is_due AND addressed, image_count, 0)"
    counts += ["COUNT(IF(is_due AND addressed, 1, NULL)) AS `asked`"]
    counts += [f"IFNULL({total}({sent}), 0) AS `{name}`" for name, total in (("images", "SUM"), ("most_images", "MAX"))]
    names = [count.rsplit(" AS ", 1)[1] for count in counts]
    fields = [
        *(f"tally.{name} AS {name}" for name in names),
        "without_id.missing AS `rows_without_id`",
        f"{'unseen_assets.unseen' if has_assets else 'CAST(NULL AS INT64)'} AS `assets_without_images`",
    ]
    return (
        f"SELECT STRUCT(\n  {', '.join(fields)}) AS books\n"
        f"FROM (SELECT {', '.join(counts)} FROM states) AS tally\nCROSS JOIN without_id"
        + ("\nCROSS JOIN unseen_assets" if has_assets else "")
    )
