"""Filters of observations: validation and SQL conditions.

The conditions use the canonical columns (see :mod:`~imagebeam.transforms.sql.sources`). Every value is a query
parameter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Collection, Sequence
from typing import Any

import orjson

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import Parameter, check_expression
from imagebeam.transforms.core.text import quote

MAX_LIMIT = 2**62
MAX_RADIUS_M = 20_037_508.0  # half the circumference of the earth
MAX_AREAS = 100
_AREA_TYPES = ("Polygon", "MultiPolygon")
_POINT = "IF(latitude BETWEEN -90 AND 90, ST_GEOGPOINT(longitude, latitude), NULL)"


@dataclasses.dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that all must hold; by default every observation passes.

    Attributes:
        asset_types: Asset types, such as ``ASSET_CLASS_UTILITY_POLE``; empty for all.
        bbox: West, south, east, north in degrees, edges included.
        near: Latitude and longitude in degrees, and a radius in meters.
        polygon: GeoJSON text: Polygon, MultiPolygon, or a Feature or FeatureCollection of them, borders included.
        captured_from: RFC 3339 time or date (midnight UTC) of the first images to include.
        captured_until: The same for the end, which is excluded.
        where: SQL condition on the columns of the source.
        limit: Maximum number of units: those with the smallest hash, so that a limit of 100 is a subset of a limit of
            1,000.
        sample_percent: Share of the units, above 0 to 100 percent, by the same hash.
    """

    asset_types: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    near: tuple[float, float, float] | None = None
    polygon: str | None = None
    captured_from: str | None = None
    captured_until: str | None = None
    where: str | None = None
    limit: int | None = None
    sample_percent: float | None = None

    def validate(self, columns: Collection[str], *, source: str = "the source") -> None:
        """Validate the values, and check that the source has the required columns.

        Args:
            columns: Canonical columns of the source.
            source: Description of the source, for errors.

        Raises:
            UserError: A filter is invalid.
        """
        if self.limit is not None and not 1 <= self.limit <= MAX_LIMIT:
            raise UserError(f"--limit={self.limit} is out of range; use 1 or more, or omit it for all")
        percent = self.sample_percent
        if percent is not None and not 0 < percent <= 100:
            raise UserError(f"--sample_percent={percent:g} is out of range; use more than 0, up to 100")
        if self.bbox is not None:
            _check_bbox(self.bbox)
        if self.near is not None:
            _check_near(self.near)
        if self.polygon is not None:
            areas(self.polygon)
        start, end = self._window()
        if start is not None and end is not None and start >= end:
            raise UserError(
                f"--captured_from={self.captured_from} is not before --captured_until={self.captured_until}; "
                "the end is excluded"
            )
        if self.where is not None:
            check_expression(self.where, source="--where")
        if any(not name.strip() for name in self.asset_types):
            raise UserError("--asset_types has an empty name; separate the types by one comma")
        place = ("latitude", "longitude")
        for flag, given, needed in (
            ("--asset_types", self.asset_types, ("asset_type",)),
            ("--bbox", self.bbox, place),
            ("--near", self.near, place),
            ("--polygon_file", self.polygon, place),
            ("--captured_from", self.captured_from, ("capture_time",)),
            ("--captured_until", self.captured_until, ("capture_time",)),
        ):
            lacking = [name for name in needed if name not in columns]
            if given and lacking:
                raise UserError(
                    f"{flag} needs {' and '.join(lacking)}, which {source} does not have; "
                    "use --where, or add the column with --query"
                )

    def place_conditions(self) -> tuple[list[str], list[Parameter]]:
        """Return the conditions on asset_type, latitude and longitude, which also apply to assets without images."""
        conditions: list[str] = []
        parameters: list[Parameter] = []

        def number(name: str, value: float) -> str:
            parameters.append(Parameter(name, "FLOAT64", float(value)))
            return f"@{name}"

        if self.asset_types:
            parameters.append(Parameter("asset_types", "STRING", tuple(self.asset_types), array=True))
            conditions.append("asset_type IN UNNEST(@asset_types)")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            conditions.append(f"longitude BETWEEN {number('west', west)} AND {number('east', east)}")
            conditions.append(f"latitude BETWEEN {number('south', south)} AND {number('north', north)}")
        if self.near is not None:
            latitude, longitude, radius = self.near
            center = f"ST_GEOGPOINT({number('near_longitude', longitude)}, {number('near_latitude', latitude)})"
            conditions.append(f"ST_DWITHIN({_POINT}, {center}, {number('near_radius_m', radius)})")
        if self.polygon is not None:
            inside = []
            for index, area in enumerate(areas(self.polygon)):
                parameters.append(Parameter(f"area_{index}", "STRING", area))
                inside.append(f"ST_INTERSECTS(ST_GEOGFROMGEOJSON(@area_{index}), {_POINT})")
            conditions.append(f"({' OR '.join(inside)})")
        return conditions, parameters

    def window_conditions(self) -> tuple[list[str], list[Parameter]]:
        """Return the conditions on capture_time."""
        start, end = self._window()
        bounds = (("captured_from", ">=", start), ("captured_until", "<", end))
        given = [(name, operator, time) for name, operator, time in bounds if time is not None]
        return (
            [f"capture_time {operator} @{name}" for name, operator, _ in given],
            [Parameter(name, "TIMESTAMP", time) for name, _, time in given],
        )

    def _window(self) -> tuple[datetime.datetime | None, datetime.datetime | None]:
        return (
            None if self.captured_from is None else instant(self.captured_from, where="--captured_from"),
            None if self.captured_until is None else instant(self.captured_until, where="--captured_until"),
        )


def instant(text: str, *, where: str) -> datetime.datetime:
    """Parse a date (midnight UTC) or an RFC 3339 time; a time without zone is UTC.

    Raises:
        UserError: It is neither.
    """
    plain = text.strip()
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?\s*([Zz]|[+-]\d{2}:?\d{2})?)?", plain):
        with contextlib.suppress(ValueError):
            time = datetime.datetime.fromisoformat(re.sub(r"\s+(?=[Z+-])", "", plain.upper()))
            return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    raise UserError(f"{where}={quote(text)} is not a time; use the form 2026-05-31 or 2026-05-31T12:00:00Z")


def parse_bbox(text: str, *, where: str = "--bbox") -> tuple[float, float, float, float]:
    """Parse ``west,south,east,north`` in degrees.

    Raises:
        UserError: The text is not a valid box.
    """
    return _check_bbox(_numbers(text, 4, where, "west,south,east,north in degrees"), where)


def parse_near(text: str, *, where: str = "--near") -> tuple[float, float, float]:
    """Parse ``latitude,longitude,meters``.

    Raises:
        UserError: The text is not a valid position and radius.
    """
    return _check_near(_numbers(text, 3, where, "latitude,longitude,meters"), where)


def areas(text: str, *, where: str = "--polygon_file") -> list[str]:
    """Return the areas of a GeoJSON text, each as JSON text for ST_GEOGFROMGEOJSON.

    Raises:
        UserError: It is not GeoJSON, or has geometries other than polygons.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error}); use a GeoJSON Polygon or MultiPolygon") from None
    found = _geometries(document, where)
    if not found:
        raise UserError(f"{where} has no polygon; use a GeoJSON Polygon or MultiPolygon")
    if len(found) > MAX_AREAS:
        raise UserError(f"{where} has {len(found)} areas; the maximum is {MAX_AREAS}: combine them in a MultiPolygon")
    return found


def _geometries(document: Any, where: str) -> list[str]:
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        return [text for feature in document["features"] for text in _geometries(feature, where)]
    if kind == "Feature":
        return _geometries(document.get("geometry"), where)
    if kind not in _AREA_TYPES:
        raise UserError(
            f"{where} has {quote(str(kind or document))}; use a GeoJSON Polygon or MultiPolygon, "
            "a Feature or a FeatureCollection of them"
        )
    polygons = document.get("coordinates")
    for rings in [polygons] if kind == "Polygon" else polygons if isinstance(polygons, list) else [None]:
        if not isinstance(rings, list) or not rings:
            raise UserError(f"{where}: a polygon without rings; coordinates must be lists of rings")
        for ring in rings:
            _check_ring(ring, where)
    return [orjson.dumps({"type": kind, "coordinates": polygons}).decode()]


def _check_ring(ring: Any, where: str) -> None:
    if not isinstance(ring, list) or len(ring) < 4:
        raise UserError(f"{where}: a ring needs at least four positions, the last equal to the first")
    for position in ring:
        numbers = isinstance(position, list) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in position
        )
        if not numbers or len(position) < 2 or not (-180 <= position[0] <= 180 and -90 <= position[1] <= 90):
            raise UserError(
                f"{where}: {quote(str(position), 60)} is not a position; use [longitude, latitude] in degrees"
            )
    if ring[0] != ring[-1]:
        raise UserError(f"{where}: a ring is not closed; its last position must equal its first, {ring[0]}")


def _numbers(text: str, count: int, where: str, form: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise UserError(f"{where}={quote(text)} must be {form}, separated by commas")
    return values


def _check_bbox(bbox: Sequence[float], where: str = "--bbox") -> tuple[float, float, float, float]:
    west, south, east, north = bbox
    given = f"{where}={','.join(f'{value:g}' for value in bbox)}"
    _check_place(south, west, given)
    _check_place(north, east, given)
    if south >= north:
        raise UserError(f"{given}: south is not less than north; the order is west,south,east,north")
    if west >= east:
        raise UserError(
            f"{given}: west is not less than east; the order is west,south,east,north, and a box across the 180th "
            "meridian needs two runs or a --polygon_file"
        )
    return west, south, east, north


def _check_near(near: Sequence[float], where: str = "--near") -> tuple[float, float, float]:
    latitude, longitude, radius = near
    given = f"{where}={','.join(f'{value:g}' for value in near)}"
    _check_place(latitude, longitude, given)
    if not 0 < radius <= MAX_RADIUS_M:
        raise UserError(f"{given}: the radius must be above 0 meters; the order is latitude,longitude,meters")
    return latitude, longitude, radius


def _check_place(latitude: float, longitude: float, given: str) -> None:
    for value, name, limit in ((latitude, "latitude", 90), (longitude, "longitude", 180)):
        if not -limit <= value <= limit:  # nor if it is not a number
            raise UserError(f"{given}: {value:g} is not a {name} (−{limit} to {limit}); check the order")
