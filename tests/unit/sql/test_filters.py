"""Filters: what is out of range is said before anything is paid, and values are always parameters."""

import contextlib
import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.sql.filters import Filters, areas, instant, parse_bbox, parse_near
from imagebeam.transforms.sql.sources import CANONICAL

RING = [[0, 0], [2, 0], [2, 2], [0, 0]]
POLYGON = {"type": "Polygon", "coordinates": [RING]}
UTC = datetime.UTC


@pytest.mark.parametrize(
    "given",
    [
        Filters(),
        Filters(limit=1, sample_percent=100),
        Filters(sample_percent=0.0001),
        Filters(bbox=(-180, -90, 180, 90)),
        Filters(near=(52.5, 13.4, 0.5)),
        Filters(captured_from="2026-01-01", captured_until="2026-01-01T00:00:01Z"),
        Filters(polygon=json.dumps(POLYGON), where="a = 1", asset_types=("ASSET_CLASS_ROAD_SIGN",)),
    ],
)
def test_filters_within_range_pass(given: Filters) -> None:
    given.validate(CANONICAL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 0}, "--limit=0 is out of range; use 1 or more"),
        ({"limit": -5}, "--limit=-5 is out of range"),
        ({"sample_percent": 0}, "--sample_percent=0 is out of range; use more than 0, up to 100"),
        ({"sample_percent": 100.5}, "--sample_percent=100.5 is out of range"),
        ({"sample_percent": float("nan")}, "--sample_percent=nan is out of range"),
        ({"bbox": (10, 0, 5, 1)}, "west is not less than east; .*180th meridian"),
        ({"bbox": (0, 5, 1, 5)}, "south is not less than north; the order is west,south,east,north"),
        ({"bbox": (0, -95, 1, 5)}, "-95 is not a latitude"),
        ({"bbox": (0, 0, float("inf"), 5)}, "inf is not a longitude"),
        ({"near": (13.4, 190, 5)}, "190 is not a longitude .*check the order"),
        ({"near": (52.5, 13.4, 0)}, "radius must be above 0 meters"),
        ({"near": (52.5, 13.4, float("nan"))}, "radius must be above 0 meters"),
        ({"captured_from": "2026-02-01", "captured_until": "2026-02-01"}, "is not before --captured_until"),
        ({"captured_from": "yesterday"}, "--captured_from='yesterday' is not a time; use the form 2026-05-31"),
        ({"captured_until": "2026-02-30"}, "--captured_until='2026-02-30' is not a time"),
        ({"where": "TRUE) OR (TRUE"}, "--where: .* is unmatched"),
        ({"asset_types": ("A", " ")}, "--asset_types has an empty name"),
        ({"polygon": "{"}, "--polygon_file is not JSON"),
    ],
)
def test_rejects_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Filters(**values).validate(CANONICAL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        (Filters(asset_types=("A",)), "asset_type"),
        (Filters(bbox=(0, 0, 1, 1)), "latitude and longitude"),
        (Filters(near=(0, 0, 1)), "latitude and longitude"),
        (Filters(polygon=json.dumps(POLYGON)), "latitude and longitude"),
        (Filters(captured_from="2026-01-01"), "capture_time"),
        (Filters(captured_until="2026-01-01"), "capture_time"),
    ],
)
def test_rejects_a_filter_on_a_missing_column(given: Filters, lacks: str) -> None:
    with pytest.raises(UserError, match=f"needs {lacks}, which p.d.t .profile custom. does not have"):
        given.validate(("observation_id", "uri"), source="p.d.t (profile custom)")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-05-31", datetime.datetime(2026, 5, 31, tzinfo=UTC)),
        ("2026-05-31T12:30:00Z", datetime.datetime(2026, 5, 31, 12, 30, tzinfo=UTC)),
        ("2026-05-31 12:30", datetime.datetime(2026, 5, 31, 12, 30, tzinfo=UTC)),
        ("2026-05-31T14:30:00.5+02:00", datetime.datetime(2026, 5, 31, 12, 30, 0, 500000, tzinfo=UTC)),
        ("2026-05-31T08:30:00-0400", datetime.datetime(2026, 5, 31, 12, 30, tzinfo=UTC)),
    ],
)
def test_parses_dates_and_times_in_utc(text: str, time: datetime.datetime) -> None:
    assert instant(text, where="--captured_from") == time
    assert instant(text, where="--captured_from").utcoffset() == datetime.timedelta(0)


@given(st.text(max_size=30) | st.from_regex(r"\A\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?\Z"))
def test_parses_or_rejects_any_text_as_time(text: str) -> None:
    with contextlib.suppress(UserError):
        assert instant(text, where="--captured_from").tzinfo is UTC


def test_parses_boxes_and_circles() -> None:
    assert parse_bbox("13.3, 52.4,13.5,52.6") == (13.3, 52.4, 13.5, 52.6)
    assert parse_near("52.5,13.4,250") == (52.5, 13.4, 250.0)
    with pytest.raises(UserError, match="must be west,south,east,north in degrees, separated by commas"):
        parse_bbox("1,2,3")
    with pytest.raises(UserError, match="must be latitude,longitude,meters"):
        parse_near("a,b,c")


def test_returns_the_areas_of_features_and_collections() -> None:
    feature = {"type": "Feature", "properties": {}, "geometry": POLYGON}
    many = {"type": "MultiPolygon", "coordinates": [[RING], [RING]]}
    collection = {"type": "FeatureCollection", "features": [feature, {"type": "Feature", "geometry": many}]}
    assert [json.loads(area) for area in areas(json.dumps(feature))] == [POLYGON]
    assert [json.loads(area) for area in areas(json.dumps(collection))] == [POLYGON, many]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "use a GeoJSON Polygon"),
        ({"type": "Point", "coordinates": [0, 0]}, "has 'Point'"),
        ({"type": "FeatureCollection", "features": []}, "has no polygon"),
        ({"type": "Feature", "geometry": None}, "use a GeoJSON Polygon"),
        ({"type": "Polygon"}, "without rings"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}, "at least four positions"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}, "is not closed"),
        ({"type": "Polygon", "coordinates": [[[52, 113], [1, 0], [1, 1], [52, 113]]]}, r"\[longitude, latitude\]"),
        ({"type": "Polygon", "coordinates": [[["a", 1], [1, 0], [1, 1], ["a", 1]]]}, "is not a position"),
        ({"type": "MultiPolygon", "coordinates": 5}, "without rings"),
        ({"type": "FeatureCollection", "features": [POLYGON] * 101}, "has 101 areas; the maximum is 100"),
    ],
)
def test_rejects_geojson_without_valid_areas(document: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        areas(json.dumps(document))


@given(st.text(min_size=1).filter(str.strip))
def test_sql_contains_no_values(text: str) -> None:
    conditions, parameters = Filters(asset_types=(text,), near=(1.25, 2.5, 77.125)).place_conditions()
    plain, _ = Filters(asset_types=("A",), near=(0, 0, 1)).place_conditions()
    assert conditions == plain
    assert parameters[0].value == (text,)
    assert {parameter.value for parameter in parameters[1:]} == {1.25, 2.5, 77.125}
