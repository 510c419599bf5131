"""Sources of observations, and the mapping of their columns to canonical columns.

A profile is a table layout. Those of Imagery Insights / Street View Insights are known: legacy, cropped, full_frame and
pano. Any other table has the profile ``custom``, whose columns are mapped by name or by ``--columns``. All other
modules use only the canonical columns.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName, column_path
from imagebeam.transforms.core.query import check_select
from imagebeam.transforms.core.text import quote

_IDENTITY = frozenset(("STRING", "INTEGER", "INT64"))
_TEXT = frozenset(("STRING",))
_TIME = frozenset(("TIMESTAMP", "DATETIME", "DATE", "STRING"))
_NUMBER = frozenset(("FLOAT", "FLOAT64", "INTEGER", "INT64", "NUMERIC", "BIGNUMERIC"))
_NAME_OF = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "RECORD": "STRUCT", "BOOLEAN": "BOOL"}

#: Canonical columns, each with the BigQuery types that a source may use for it.
CANONICAL: Mapping[str, frozenset[str]] = {
    "observation_id": _IDENTITY,
    "uri": _TEXT,
    "asset_id": _IDENTITY,
    "asset_type": _TEXT,
    "capture_time": _TIME,
    "detection_time": _TIME,
    "heading": _NUMBER,
    "pitch": _NUMBER,
    "roll": _NUMBER,
    "x0": _NUMBER,
    "y0": _NUMBER,
    "x1": _NUMBER,
    "y1": _NUMBER,
    "latitude": _NUMBER,
    "longitude": _NUMBER,
    "snapshot_id": _IDENTITY,
    "map_url": _TEXT,
}

# Imagery Insights, "Schema reference": cropped and full-frame observations. Panoramas differ.
_ASSET_PATHS = {
    "observation_id": "observation_id",
    "uri": "gcs_uri",
    "asset_id": "asset_id",
    "asset_type": "asset_type",
    "capture_time": "capture_time",
    "detection_time": "detection_time",
    "heading": "camera_pose.heading",
    "pitch": "camera_pose.pitch",
    "roll": "camera_pose.roll",
    "x0": "bbox.lo.x",
    "y0": "bbox.lo.y",
    "x1": "bbox.hi.x",
    "y1": "bbox.hi.y",
    "latitude": "location.latitude",
    "longitude": "location.longitude",
    "snapshot_id": "snapshot_id",
    "map_url": "map_url",
}
_NOT_OF_PANO = ("asset_id", "asset_type", "detection_time", "x0", "y0", "x1", "y1")
_PANO_PATHS = {name: path for name, path in _ASSET_PATHS.items() if name not in _NOT_OF_PANO} | {
    "latitude": "capture_location.latitude",
    "longitude": "capture_location.longitude",
}
_ASSET_NEEDS = (
    "observation_id",
    "uri",
    "asset_id",
    "asset_type",
    "capture_time",
    "latitude",
    "longitude",
    "snapshot_id",
)
_PANO_NEEDS = ("observation_id", "uri", "capture_time", "latitude", "longitude", "snapshot_id")

_SHAPES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "legacy": (_ASSET_PATHS, _ASSET_NEEDS),
    "cropped": (_ASSET_PATHS, _ASSET_NEEDS),
    "full_frame": (_ASSET_PATHS, _ASSET_NEEDS),
    "pano": (_PANO_PATHS, _PANO_NEEDS),
}

# Columns in which an empty text counts as NULL.
_NEVER_BLANK = ("observation_id", "asset_id", "uri")

#: Profiles.
PROFILES = (*_SHAPES, "custom")


@dataclasses.dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of the source.

    Attributes:
        path: Its name as in the table, such as ``camera_pose.heading`` for a field of a STRUCT.
        type: BigQuery type in upper case.
    """

    path: str
    type: str


@dataclasses.dataclass(frozen=True, slots=True)
class Detected:
    """The profile of a source and its column mapping.

    Attributes:
        profile: One of :data:`PROFILES`.
        why: Reason for the profile, for messages.
        columns: Canonical name to the source's column. Has at least ``observation_id`` and ``uri``.
        fields: Every column and field of the source by its path in lower case.
    """

    profile: str
    why: str
    columns: Mapping[str, SourceColumn]
    fields: Mapping[str, SourceColumn]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A table or query of observations and its column mapping. Created by :func:`source_of`.

    Attributes:
        table: The table; None for a query.
        query: The SELECT; None for a table.
        detected: Profile and columns.
        snapshots: Table with ``snapshot_id`` and ``creation_time``, which determines the newest snapshot.
        assets: Table of all assets, to count those without images.
    """

    table: TableName | None
    query: str | None
    detected: Detected
    snapshots: TableName | None = None
    assets: TableName | None = None

    @property
    def profile(self) -> str:
        """The profile."""
        return self.detected.profile

    @property
    def columns(self) -> Mapping[str, SourceColumn]:
        """Canonical name to the source's column."""
        return self.detected.columns

    def sql(self) -> str:
        """Return the source as SQL for a FROM clause."""
        # The closing bracket is on its own line: the user's query may end in a comment.
        return self.table.sql() if self.table else f"(\n{self.query}\n)"

    @property
    def label(self) -> str:
        """Description of the source, for messages."""
        return f"{self.table.dotted if self.table else 'the query'} (profile {self.profile})"

    def kept(self, names: Sequence[str], *, where: str = "--keep_columns") -> dict[str, str]:
        """Map the name in ``extra`` of each column to keep, with underscores for dots, to its path.

        Raises:
            UserError: The source has no such column, or two columns have the same name in ``extra``.
        """
        kept: dict[str, str] = {}
        for name in names:
            found = self.detected.fields.get(name.lower())
            if found is None:
                raise UserError(f"{where}: {self.label} has no column {quote(name)}{_near(name, self.detected.fields)}")
            if kept.setdefault(found.path.replace(".", "_"), found.path) != found.path:
                raise UserError(f"{where}: {found.path} and {kept[found.path.replace('.', '_')]} have the same name")
        return kept


def source_of(
    *,
    detected: Detected,
    table: TableName | None = None,
    query: str | None = None,
    snapshots: TableName | None = None,
    assets: TableName | None = None,
) -> Source:
    """Create a source of exactly one of table and query.

    Raises:
        UserError: Both or neither are given, or the query is not a single SELECT.
    """
    if (table is None) == (query is None):
        raise UserError("give exactly one of --source (a table) and --query (a SELECT)")
    checked = None if query is None else check_select(query, source="--query")
    return Source(table, checked, detected, snapshots, assets)


def detect_profile(
    table_name: str,
    schema_fields: Iterable[Mapping[str, Any]],
    *,
    profile: str = "auto",
    mapping: Mapping[str, str] | None = None,
) -> Detected:
    """Detect the profile that fits the columns of a table or query, or check the given profile.

    Args:
        table_name: Name of the table, or any text for a query. Distinguishes profiles with the same columns.
        schema_fields: Fields of the table, or of the query's dry run, as REST JSON.
        profile: ``auto`` or one of :data:`PROFILES`.
        mapping: For ``custom``: canonical column to column path. ``observation_id`` defaults to the path of ``uri``.

    Raises:
        UserError: Columns are missing or have an unsupported type.
    """
    fields = {found.path.lower(): found for found in _flatten(schema_fields)}
    if profile not in ("auto", *PROFILES):
        raise UserError(f"unknown profile {quote(profile)}; use auto, {', '.join(PROFILES)}{_near(profile, PROFILES)}")
    if mapping:
        if profile not in ("auto", "custom"):
            raise UserError(f"--columns needs profile custom, not {profile}; omit one of them")
        return Detected("custom", "by your column mapping", _mapped(mapping, fields, table_name), fields)
    if profile == "custom":
        return _by_names(fields, table_name)
    if profile != "auto":
        return Detected(profile, "as given", _fitted(profile, fields, table_name), fields)
    return _detect(fields, table_name)


def companions(table: TableName) -> tuple[TableName, TableName | None]:
    """Return the tables that Imagery Insights provides with a table of observations. They may not exist.

    Returns:
        The table of snapshots, and the table of all assets, including those without images; None if the source has no
        assets.
    """
    snapshots = dataclasses.replace(table, table="snapshots")
    name = table.table
    if "observations" not in name or name.startswith("pano"):
        return snapshots, None
    return snapshots, dataclasses.replace(table, table=name.replace("observations", "assets"))


def _detect(fields: Mapping[str, SourceColumn], table_name: str) -> Detected:
    name = table_name.rsplit(".", 1)[-1]
    if any(field == "capture_id" or field.startswith("capture_location.") for field in fields):
        likely, why = "pano", "it has the columns of panorama frames"
    else:
        by_name = next((shape for shape in ("cropped", "full_frame", "pano") if name.startswith(shape)), None)
        likely = by_name or "legacy"
        why = f"its columns fit, and its name starts with {by_name}" if by_name else "its columns fit"
    if not _missing(likely, fields):
        return Detected(likely, why, _fitted(likely, fields, table_name), fields)
    if "gcs_uri" in fields or "uri" in fields:
        return _by_names(fields, table_name)
    raise UserError(
        f"{table_name} matches no profile: for {likely} it lacks {', '.join(_missing(likely, fields))}, and for custom "
        f"uri or gcs_uri; it has {_list(fields)}; map its columns with --columns=uri=COLUMN"
    )


def _missing(profile: str, fields: Mapping[str, SourceColumn]) -> list[str]:
    paths, needs = _SHAPES[profile]
    return [paths[name] for name in needs if paths[name] not in fields]


def _fitted(profile: str, fields: Mapping[str, SourceColumn], table_name: str) -> dict[str, SourceColumn]:
    missing = _missing(profile, fields)
    if missing:
        raise UserError(
            f"{table_name} does not match profile {profile}: it lacks {', '.join(missing)}; it has {_list(fields)}; "
            "use another --profile, or map its columns with --columns=uri=COLUMN"
        )
    paths, _ = _SHAPES[profile]
    found = {name: fields[path] for name, path in paths.items() if path in fields}
    for name, column in found.items():
        _check_type(name, column, table_name)
    return found


def _by_names(fields: Mapping[str, SourceColumn], table_name: str) -> Detected:
    columns: dict[str, SourceColumn] = {}
    for name, types in CANONICAL.items():
        for path in (name, _ASSET_PATHS[name], _PANO_PATHS.get(name, name)):
            if path in fields and fields[path].type in types:
                columns.setdefault(name, fields[path])
    if "uri" not in columns:
        raise UserError(
            f"{table_name} has no STRING column uri or gcs_uri; it has {_list(fields)}; name the column of the gs:// "
            "URI with --columns=uri=COLUMN"
        )
    columns.setdefault("observation_id", columns["uri"])
    named = ", ".join(f"{name}={column.path}" for name, column in columns.items())
    return Detected("custom", f"by its column names: {named}", columns, fields)


def _mapped(mapping: Mapping[str, str], fields: Mapping[str, SourceColumn], table_name: str) -> dict[str, SourceColumn]:
    columns: dict[str, SourceColumn] = {}
    for name, path in mapping.items():
        if name not in CANONICAL:
            raise UserError(
                f"--columns: {quote(str(name))} is not a canonical column{_near(str(name), CANONICAL)}; "
                f"use {', '.join(CANONICAL)}"
            )
        found = fields.get(str(path).lower())
        if found is None:
            raise UserError(
                f"--columns={name}={quote(str(path))}: {table_name} has no such column{_near(str(path), fields)}"
            )
        _check_type(name, found, table_name)
        columns[name] = found
    if "uri" not in columns:
        raise UserError("--columns: uri is missing; name the column of the gs:// URI with --columns=uri=COLUMN")
    columns.setdefault("observation_id", columns["uri"])
    return columns


def _check_type(name: str, column: SourceColumn, table_name: str) -> None:
    if column.type not in CANONICAL[name]:
        wanted = " or ".join(sorted({_NAME_OF.get(kind, kind) for kind in CANONICAL[name]}))
        raise UserError(
            f"{table_name}: column {column.path} is {_NAME_OF.get(column.type, column.type)}, but {name} needs "
            f"{wanted}; convert it in a --query"
        )


def _flatten(schema: Iterable[Mapping[str, Any]], prefix: str = "") -> Iterator[SourceColumn]:
    for field in schema:
        path = f"{prefix}{field['name']}"
        kind = str(field.get("type", "")).upper()
        if str(field.get("mode") or "").upper() == "REPEATED":
            yield SourceColumn(path, f"ARRAY<{_NAME_OF.get(kind, kind)}>")
            continue
        yield SourceColumn(path, kind)
        if kind in ("RECORD", "STRUCT"):
            yield from _flatten(field.get("fields") or (), f"{path}.")


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _list(fields: Mapping[str, SourceColumn], limit: int = 12) -> str:
    names = [column.path for path, column in fields.items() if "." not in path]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit]) or 'no columns'}{more}"


def canonical_sql(source: Source, name: str, alias: str) -> str:
    """Return the SQL of a canonical column: converted to its type, or a typed NULL if the source lacks it."""
    types = CANONICAL[name]
    target = "FLOAT64" if types is _NUMBER else "TIMESTAMP" if types is _TIME else "STRING"
    found = source.columns.get(name)
    if found is None:
        return f"CAST(NULL AS {target})"
    text = f"{alias}.{column_path(found.path, source='source')}"
    if name in _NEVER_BLANK and found.type == "STRING":
        return f"NULLIF({text}, '')"
    if _NAME_OF.get(found.type, found.type) == target:
        return text
    cast = "SAFE_CAST" if found.type == "STRING" else "CAST"  # only a STRING can fail to convert
    return f"{cast}({text} AS {target})"
