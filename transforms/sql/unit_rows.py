"""Columns of the source query, and the records that are read from them."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import orjson

from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.records import Image, Unit, UnitKind

#: Fields of an image, with their types.
IMAGE_FIELDS = {
    "observation_id": "STRING",
    "uri": "STRING",
    "capture_time": "TIMESTAMP",
    **dict.fromkeys(("heading", "pitch", "roll", "x0", "y0", "x1", "y1"), "FLOAT64"),
}
#: Columns that describe the unit, with their types. Those of an asset are taken from its newest image.
DESCRIPTION = {
    "asset_id": "STRING",
    "asset_type": "STRING",
    "snapshot_id": "STRING",
    "capture_time": "TIMESTAMP",
    "latitude": "FLOAT64",
    "longitude": "FLOAT64",
    "map_url": "STRING",
    "extra": "STRING",
}
_UNIT_TYPES = {
    "unit_id": "STRING",
    "unit_type": "STRING",
    "input_digest": "STRING",
    "images": f"ARRAY<STRUCT<{', '.join(f'{name} {kind}' for name, kind in IMAGE_FIELDS.items())}>>",
    **DESCRIPTION,
}
#: Columns that :func:`unit_from_row` reads.
UNIT_COLUMNS = tuple(_UNIT_TYPES)
#: Columns of a remaining unit, with their types. ``state_detail`` is ``failed:REASON`` for failures, else the state.
REMAINING_TYPES = {**_UNIT_TYPES, "state_detail": "STRING"}


def unit_from_row(row: Mapping[str, Any]) -> Unit:
    """Return the unit of a result row."""
    extra = row.get("extra")
    return Unit(
        unit_id=row["unit_id"],
        unit_type=UnitKind(row["unit_type"]),
        input_digest=row["input_digest"],
        images=tuple(_image(image) for image in row["images"]),
        asset_id=row["asset_id"],
        asset_type=row["asset_type"],
        snapshot_id=row["snapshot_id"],
        capture_time=rfc3339(row["capture_time"]),
        latitude=row["latitude"],
        longitude=row["longitude"],
        map_url=row["map_url"],
        extra=orjson.loads(extra) if extra else {},
    )


def source_counts_from_row(row: Mapping[str, Any]) -> SourceCounts:
    """Return the counts in a result row: those of its column ``counts``, or of the row itself without that column."""
    counts = row.get("counts", row)
    return SourceCounts(**{field.name: counts[field.name] for field in dataclasses.fields(SourceCounts)})


def _image(row: Mapping[str, Any]) -> Image:
    corners = (row["x0"], row["y0"], row["x1"], row["y1"])
    return Image(
        observation_id=row["observation_id"],
        uri=row["uri"],
        capture_time=rfc3339(row["capture_time"]),
        heading=row["heading"],
        pitch=row["pitch"],
        roll=row["roll"],
        bbox=None if None in corners else corners,
    )


def rfc3339(time: datetime.datetime | None) -> str | None:
    """Return a time as in a request: RFC 3339 in UTC, such as ``2025-05-01T10:00:00Z``."""
    return None if time is None else time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
