"""Geography of the local BigQuery: points on the sphere, everything else on the plane (shapely).

DuckDB keeps a GEOGRAPHY as WKB in its GEOMETRY type. Distances between points are great-circle distances on
a sphere of 6,371,008.8 m, as BigQuery's are (S2). Polygons are planar here, where BigQuery's edges are
geodesics: for areas the size of a city the difference is below a metre.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from typing import Any, Final

import orjson

EARTH_RADIUS_M: Final = 6_371_008.8
_POINT: Final = struct.Struct("<BIdd")
_POINT_TEXT: Final = re.compile(r"\s*POINT\s*\(\s*(\S+)\s+(\S+)\s*\)\s*", re.IGNORECASE)
_LETTER_SPACE: Final = re.compile(r"([A-Z]) \(")


def point(longitude: float, latitude: float) -> bytes:
    """ST_GEOGPOINT: WKB of a point.

    Raises:
        ValueError: The latitude is no latitude.
    """
    if not -90 <= latitude <= 90:
        raise ValueError(f"Latitude must be between -90 and 90 degrees: {latitude}")
    if not math.isfinite(longitude):
        raise ValueError(f"Longitude must be finite: {longitude}")
    if not -180 <= longitude <= 180:
        longitude = math.remainder(longitude, 360)
    return _POINT.pack(1, 1, longitude, latitude)


def coordinates(wkb: bytes) -> tuple[float, float] | None:
    """Longitude and latitude of a point; None for anything else."""
    if len(wkb) == _POINT.size:
        order, kind, x, y = _POINT.unpack(wkb)
        if order == 1 and kind == 1:
            return x, y
    return None


def x_of(wkb: bytes) -> float | None:
    """ST_X."""
    return _coordinate(wkb, 0)


def y_of(wkb: bytes) -> float | None:
    """ST_Y."""
    return _coordinate(wkb, 1)


def _coordinate(wkb: bytes, index: int) -> float | None:
    at = coordinates(wkb)
    if at is None:
        if _shape(wkb).is_empty:
            return None
        raise ValueError("ST_X and ST_Y need a point")
    return at[index]


def to_wkt(wkb: bytes) -> str:
    """ST_ASTEXT: the text that BigQuery shows, such as ``POINT(1 2)``."""
    at = coordinates(wkb)
    if at is not None:
        return f"POINT({at[0]:.15g} {at[1]:.15g})"
    return _LETTER_SPACE.sub(r"\1(", str(_shape(wkb).wkt))


def full_wkt(wkb: bytes) -> str:
    """WKT with every digit, as DuckDB reads it."""
    at = coordinates(wkb)
    return f"POINT({at[0]!r} {at[1]!r})" if at is not None else str(_loose(wkb).wkt)


def parse(text: str) -> bytes:
    """WKB of a WKT or GeoJSON text, as streamed rows carry it.

    Raises:
        ValueError: It is neither.
    """
    return from_geojson(text) if text.lstrip().startswith("{") else from_text(text)


def from_text(text: str) -> bytes:
    """ST_GEOGFROMTEXT.

    Raises:
        ValueError: It is no WKT.
    """
    match = _POINT_TEXT.fullmatch(text)
    if match:
        return point(float(match[1]), float(match[2]))
    import shapely

    try:
        shape = shapely.from_wkt(text)
    except shapely.errors.GEOSException as problem:
        raise ValueError(f"Invalid WKT: {text[:80]!r}: {problem}") from None
    return _wkb(shape)


def from_geojson(text: str) -> bytes:
    """ST_GEOGFROMGEOJSON.

    Raises:
        ValueError: It is no GeoJSON geometry.
    """
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as problem:
        raise ValueError(f"Invalid GeoJSON: {problem}") from None
    if not isinstance(body, dict) or "type" not in body:
        raise ValueError("Invalid GeoJSON: it has no type")
    if body["type"] in ("Feature", "FeatureCollection"):
        raise ValueError(f"Invalid GeoJSON: a geometry is needed, not a {body['type']}")
    import shapely

    try:
        shape = shapely.from_geojson(text)
    except shapely.errors.GEOSException as problem:
        raise ValueError(f"Invalid GeoJSON: {problem}") from None
    return _wkb(shape)


def to_geojson(wkb: bytes) -> str:
    """ST_ASGEOJSON."""
    at = coordinates(wkb)
    if at is not None:
        return orjson.dumps({"type": "Point", "coordinates": list(at)}).decode()
    import shapely

    return str(shapely.to_geojson(_shape(wkb)))


def distance(one: bytes, other: bytes) -> float:
    """ST_DISTANCE in metres: great circle for points, else on a plane that touches at the nearest points."""
    first, second = coordinates(one), coordinates(other)
    if first is None or second is None:
        import shapely

        line = shapely.shortest_line(_shape(one), _shape(other))
        if line is None or line.is_empty:
            return 0.0
        (x1, y1), (x2, y2) = line.coords
        first, second = (x1, y1), (x2, y2)
    return _great_circle(first, second)


def within(one: bytes, other: bytes, metres: float) -> bool:
    """ST_DWITHIN."""
    return distance(one, other) <= metres


def intersects(one: bytes, other: bytes) -> bool:
    """ST_INTERSECTS."""
    if coordinates(one) is not None:
        one, other = other, one
    return bool(_shape(one).intersects(_loose(other)))


def contains(one: bytes, other: bytes) -> bool:
    """ST_CONTAINS: no point of the second outside the first, and their insides meet."""
    return bool(_shape(one).contains(_loose(other)))


def covers(one: bytes, other: bytes) -> bool:
    """ST_COVERS: no point of the second outside the first."""
    return bool(_shape(one).covers(_loose(other)))


def _great_circle(first: tuple[float, float], second: tuple[float, float]) -> float:
    x1, y1, x2, y2 = (math.radians(value) for value in (*first, *second))
    square = math.sin((y2 - y1) / 2) ** 2 + math.cos(y1) * math.cos(y2) * math.sin((x2 - x1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(square)))


def _wkb(shape: Any) -> bytes:
    import shapely

    return bytes(shapely.to_wkb(shape, byte_order=1, output_dimension=2))


@functools.lru_cache(maxsize=256)
def _shape(wkb: bytes) -> Any:
    """A shape that is asked about again and again: a filter's polygon."""
    import shapely

    shape = shapely.from_wkb(wkb)
    shapely.prepare(shape)
    return shape


def _loose(wkb: bytes) -> Any:
    """A shape that is asked about once: a row's point."""
    import shapely

    at = coordinates(wkb)
    return shapely.Point(at) if at is not None else shapely.from_wkb(wkb)
