"""Geography functions: points on the sphere, all other shapes on the plane (shapely).

DuckDB stores a GEOGRAPHY as WKB in its GEOMETRY type. Distances between points are great-circle distances on a sphere
of 6,371,008.8 m, as in BigQuery (S2). Polygons are planar, where BigQuery's edges are geodesics: for areas of the size
of a city the difference is below a meter.
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
    """Return the WKB of a point (ST_GEOGPOINT).

    Args:
        longitude: Degrees; values beyond 180 are wrapped around.
        latitude: Degrees from -90 to 90.

    Raises:
        ValueError: A coordinate is out of range.
    """
    if not -90 <= latitude <= 90:
        raise ValueError(f"Latitude must be between -90 and 90 degrees: {latitude}")
    if not math.isfinite(longitude):
        raise ValueError(f"Longitude must be finite: {longitude}")
    if not -180 <= longitude <= 180:
        longitude = math.remainder(longitude, 360)
    return _POINT.pack(1, 1, longitude, latitude)


def coordinates(wkb: bytes) -> tuple[float, float] | None:
    """Return longitude and latitude of a point, or None for any other shape."""
    if len(wkb) == _POINT.size:
        order, kind, x, y = _POINT.unpack(wkb)
        if order == 1 and kind == 1:
            return x, y
    return None


def x_of(wkb: bytes) -> float | None:
    """Return the longitude of a point (ST_X)."""
    return _coordinate(wkb, 0)


def y_of(wkb: bytes) -> float | None:
    """Return the latitude of a point (ST_Y)."""
    return _coordinate(wkb, 1)


def _coordinate(wkb: bytes, index: int) -> float | None:
    lon_lat = coordinates(wkb)
    if lon_lat is None:
        if _prepared_shape(wkb).is_empty:
            return None
        raise ValueError("ST_X and ST_Y need a point")
    return lon_lat[index]


def to_wkt(wkb: bytes) -> str:
    """Return WKT as BigQuery formats it, such as ``POINT(1 2)`` (ST_ASTEXT)."""
    lon_lat = coordinates(wkb)
    if lon_lat is not None:
        return f"POINT({lon_lat[0]:.15g} {lon_lat[1]:.15g})"
    return _LETTER_SPACE.sub(r"\1(", str(_prepared_shape(wkb).wkt))


def full_wkt(wkb: bytes) -> str:
    """Return WKT with all digits, for DuckDB."""
    lon_lat = coordinates(wkb)
    return f"POINT({lon_lat[0]!r} {lon_lat[1]!r})" if lon_lat is not None else str(_unprepared_shape(wkb).wkt)


def parse(text: str) -> bytes:
    """Return the WKB of a WKT or GeoJSON text.

    Raises:
        ValueError: The text is invalid.
    """
    return from_geojson(text) if text.lstrip().startswith("{") else from_text(text)


def from_text(text: str) -> bytes:
    """Return the WKB of a WKT text (ST_GEOGFROMTEXT).

    Raises:
        ValueError: The text is invalid.
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
    """Return the WKB of a GeoJSON geometry (ST_GEOGFROMGEOJSON).

    Raises:
        ValueError: The text is invalid, or not a geometry.
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
    """Return GeoJSON (ST_ASGEOJSON)."""
    lon_lat = coordinates(wkb)
    if lon_lat is not None:
        return orjson.dumps({"type": "Point", "coordinates": list(lon_lat)}).decode()
    import shapely

    return str(shapely.to_geojson(_prepared_shape(wkb)))


def distance(one: bytes, other: bytes) -> float:
    """Return the distance in meters (ST_DISTANCE): the great-circle distance of points, or of the nearest points."""
    first, second = coordinates(one), coordinates(other)
    if first is None or second is None:
        import shapely

        line = shapely.shortest_line(_prepared_shape(one), _prepared_shape(other))
        if line is None or line.is_empty:
            return 0.0
        (x1, y1), (x2, y2) = line.coords
        first, second = (x1, y1), (x2, y2)
    return _great_circle(first, second)


def within(one: bytes, other: bytes, meters: float) -> bool:
    """Return whether the distance is at most ``meters`` (ST_DWITHIN)."""
    return distance(one, other) <= meters


def intersects(one: bytes, other: bytes) -> bool:
    """Return whether two shapes have a common point (ST_INTERSECTS)."""
    if coordinates(one) is not None:
        one, other = other, one
    return bool(_prepared_shape(one).intersects(_unprepared_shape(other)))


def contains(one: bytes, other: bytes) -> bool:
    """Return whether the first shape contains the second, not only on its boundary (ST_CONTAINS)."""
    return bool(_prepared_shape(one).contains(_unprepared_shape(other)))


def covers(one: bytes, other: bytes) -> bool:
    """Return whether no point of the second shape is outside the first (ST_COVERS)."""
    return bool(_prepared_shape(one).covers(_unprepared_shape(other)))


def _great_circle(first: tuple[float, float], second: tuple[float, float]) -> float:
    x1, y1, x2, y2 = (math.radians(value) for value in (*first, *second))
    square = math.sin((y2 - y1) / 2) ** 2 + math.cos(y1) * math.cos(y2) * math.sin((x2 - x1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(square)))


def _wkb(shape: Any) -> bytes:
    import shapely

    return bytes(shapely.to_wkb(shape, byte_order=1, output_dimension=2))


@functools.lru_cache(maxsize=256)
def _prepared_shape(wkb: bytes) -> Any:
    """Return a prepared shape for repeated tests, such as the polygon of a filter."""
    import shapely

    shape = shapely.from_wkb(wkb)
    shapely.prepare(shape)
    return shape


def _unprepared_shape(wkb: bytes) -> Any:
    """Return a shape for one test, such as the point of a row."""
    import shapely

    lon_lat = coordinates(wkb)
    return shapely.Point(lon_lat) if lon_lat is not None else shapely.from_wkb(wkb)
