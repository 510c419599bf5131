"""The first steps of the source query: from rows of the source to units, before their state is known.

Each step is a common table expression that can be understood on its own::

    raw ─► observations ─► passing ─► newest ─► units ─► chosen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import column, column_path
from imagebeam.transforms.core.query import Parameter, check_expression
from imagebeam.transforms.core.records import UnitKind
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.selection import QuerySpec
from imagebeam.transforms.sql.sources import CANONICAL, Source, canonical_sql
from imagebeam.transforms.sql.unit_rows import DESCRIPTION, IMAGE_FIELDS

MAX_IMAGES = 10
# A gs:// URI, precise enough to count calls; images.checked_uri is exact.
_GS_URI = "r'^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/.'"


def source_steps(spec: QuerySpec, kept: Mapping[str, str], parameters: list[Parameter]) -> dict[str, str]:
    """Return the steps up to ``chosen``, by name.

    Args:
        spec: The query.
        kept: Name in ``extra`` to path of each column of the source to keep.
        parameters: Receives the parameters of the steps.

    Raises:
        UserError: The source does not support a filter or the kind of unit.
    """
    source, filters = spec.source, spec.filters
    filters.validate(source.columns, source=source.label)
    if spec.unit == UnitKind.ASSET and "asset_id" not in source.columns:
        raise UserError(f"unit: asset requires asset_id, which {source.label} does not have; use unit: observation")
    if not 1 <= spec.max_images <= MAX_IMAGES:
        raise UserError(f"max_images is {spec.max_images}; use 1 to {MAX_IMAGES}")
    place, place_parameters = filters.place_conditions()
    window, window_parameters = filters.window_conditions()
    parameters += [*place_parameters, *window_parameters]
    limit = f"\nORDER BY TO_HEX(SHA256(unit_id)), unit_id\nLIMIT {int(filters.limit)}" if filters.limit else ""
    return {
        "raw": _raw(source, filters),
        "observations": _observations(source, kept, spec.unit),
        "passing": f"SELECT * FROM observations\n{where([*place, *window])}",
        **_newest(source, spec.unit, filters, parameters),
        "units": _asset_units(spec.max_images) if spec.unit == UnitKind.ASSET else _observation_units(),
        "chosen": f"SELECT * FROM units{limit}",
    }


def asset_steps(spec: QuerySpec) -> dict[str, str]:
    """Return the steps that count assets without an observation as ``unseen``; none if the source has no assets.

    Only the asset types and the area of the filters apply: nothing else is known about an asset without images.
    """
    source = spec.source
    if source.assets is None or "asset_id" not in source.columns:
        return {}
    return {
        "all_assets": "SELECT asset_id, asset_type, location.latitude AS latitude, location.longitude AS longitude\n"
        f"FROM {source.assets.sql()}",
        "seen_assets": f"SELECT DISTINCT {canonical_sql(source, 'asset_id', 'source')} AS asset_id\n"
        f"FROM {source.sql()} AS source",
        "unseen_assets": "SELECT COUNT(DISTINCT listed.asset_id) AS unseen\n"
        f"FROM (SELECT * FROM all_assets {where(spec.filters.place_conditions()[0])}) AS listed\n"
        "LEFT JOIN seen_assets ON listed.asset_id = seen_assets.asset_id\n"
        "WHERE seen_assets.asset_id IS NULL",
    }


def has_uri(uri: str = "uri") -> str:
    """Return the SQL condition that an image has a URI that a call can use."""
    return f"REGEXP_CONTAINS(IFNULL({uri}, ''), {_GS_URI})"


def where(conditions: Sequence[str]) -> str:
    """Return a WHERE clause; ``WHERE TRUE`` without conditions."""
    return f"WHERE {' AND '.join(conditions) or 'TRUE'}"


def _raw(source: Source, filters: Filters) -> str:
    # The closing bracket is on its own line: the user's expression may end in a comment.
    condition = "" if filters.where is None else f"\nWHERE (\n{check_expression(filters.where, source='--where')}\n)"
    return f"SELECT source.* FROM {source.sql()} AS source{condition}"


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
    """Return the steps that keep each observation once, as in the newest snapshot, after sampling."""
    conditions = ["unit_id IS NOT NULL", "observation_id IS NOT NULL"]
    percent = filters.sample_percent
    if percent is not None and percent < 100:
        # The first eight hex digits of the hash, compared as text, sort like the number that they encode.
        conditions.append("SUBSTR(TO_HEX(SHA256(unit_id)), 1, 8) < @sample_below")
        parameters.append(Parameter("sample_below", "STRING", f"{max(1, round(percent / 100 * 2**32)):08x}"))
    age = "snapshot_id DESC, detection_time DESC, capture_time DESC, uri DESC"
    once = "QUALIFY ROW_NUMBER() OVER (PARTITION BY observation_id ORDER BY {}) = 1"
    missing = "unit_id IS NULL" if unit == UnitKind.OBSERVATION else "unit_id IS NULL OR observation_id IS NULL"
    steps = {"without_id": f"SELECT COUNT(*) AS missing FROM passing WHERE {missing}"}
    if source.snapshots is None:
        return {**steps, "newest": f"SELECT * FROM passing\n{where(conditions)}\n{once.format(age)}"}
    return {
        **steps,
        "snapshot_times": "SELECT CAST(snapshot_id AS STRING) AS snapshot_id, MAX(creation_time) AS created\n"
        f"FROM {source.snapshots.sql()}\nGROUP BY 1",
        "dated": "SELECT passing.*, snapshot_times.created\nFROM passing\n"
        "LEFT JOIN snapshot_times ON passing.snapshot_id = snapshot_times.snapshot_id",
        "newest": f"SELECT * FROM dated\n{where(conditions)}\n{once.format(f'created DESC, {age}')}",
    }


def _image_struct() -> str:
    return f"STRUCT({', '.join(f'{name} AS {name}' for name in IMAGE_FIELDS)})"


def _observation_units() -> str:
    return (
        "SELECT unit_id, 'observation' AS unit_type, TO_HEX(SHA256(observation_id)) AS input_digest,\n"
        f"  [{_image_struct()}] AS images,\n  1 AS image_count, {has_uri()} AS has_uris,\n"
        f"  {', '.join(DESCRIPTION)}\nFROM newest"
    )


def _asset_units(max_images: int) -> str:
    # Position 1 is the newest image; images are sent from the oldest to the newest.
    description = ",\n  ".join(f"MAX(IF(position = 1, {name}, NULL)) AS {name}" for name in DESCRIPTION)
    return (
        "SELECT unit_id, 'asset' AS unit_type,\n"
        "  TO_HEX(SHA256(STRING_AGG(observation_id, ',' ORDER BY position DESC))) AS input_digest,\n"
        f"  ARRAY_AGG({_image_struct()} ORDER BY position DESC) AS images,\n"
        f"  COUNT(*) AS image_count, LOGICAL_AND({has_uri()}) AS has_uris,\n  {description}\n"
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
