"""The source query on the local BigQuery: states, counts, units, filters, sample and limit."""

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import pytest
from support.bigquery_lab import TASK, VERSION, Lab, at, digest, event, observation
from support.insights_schema import PANO_OBSERVATIONS, field
from support.marks import long_except

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Image, UnitKind
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.outcome_queries import answered_units_query
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.sql.selection import QuerySpec, parse_due
from imagebeam.transforms.sql.sources import detect_profile, source_of


@pytest.fixture
def lab(cloud: LocalCloud) -> Lab:
    return Lab(cloud)


# -- states and counts ---------------------------------------------------------------------------------


def test_every_unit_is_new_without_a_table_of_outcomes(lab: Lab) -> None:
    found = lab.remaining(lab.source([observation("a"), observation("b")]), outcomes=False)
    assert found.states == {"a": "new", "b": "new"}
    assert (found.counts.units_in, found.counts.remaining_new, found.counts.remaining) == (2, 2, 2)


def test_counts_an_empty_source(lab: Lab) -> None:
    found = lab.remaining(lab.source([]))
    assert found.row_count == 1
    assert dataclasses.asdict(found.counts) == {
        **dict.fromkeys(dataclasses.asdict(found.counts), 0),
        "assets_without_images": None,
    }


FAILURES = [
    ("BLOCKED", "SAFETY", "failed:SAFETY"),
    ("INVALID_ANSWER", "NOT_JSON", "failed:NOT_JSON"),
    ("BAD_REQUEST", None, "failed:BAD_REQUEST"),
    ("IMAGE_ERROR", "NOT_FOUND", "failed:NOT_FOUND"),
    ("IMAGE_ERROR", "NO_URI", "failed:NO_URI"),
    ("IMAGE_ERROR", None, "failed:IMAGE_ERROR"),
    ("IMAGE_ERROR", "FORBIDDEN", "retry"),
    ("UNAVAILABLE", "HTTP_503", "retry"),
    ("UNAVAILABLE", None, "retry"),
    ("SUBMITTED", None, "submitted"),
    ("OK", None, "answered"),
]
ALL = parse_due("new,retry,outdated,failed")


@pytest.mark.parametrize(("status", "reason", "state"), FAILURES)
def test_current_version_decides_the_state(lab: Lab, status: str, reason: str | None, state: str) -> None:
    lab.insert(lab.outcomes, [event("a", digest("a"), status, reason)])
    found = lab.remaining(lab.source([observation("a")]), selection=ALL)
    part = state.split(":")[0]
    assert count_of(found.counts, part) == found.counts.units_in == 1
    assert found.states == ({} if state in ("answered", "submitted") else {"a": state})


def count_of(counts: SourceCounts, state: str) -> int:
    """All units in a state, selected or not."""
    fields = {
        "answered": counts.already_done,
        "submitted": counts.submitted,
        "new": counts.remaining_new,
        "retry": counts.remaining_retry,
        "outdated": counts.remaining_outdated + counts.outdated,
        "failed": counts.remaining_failed + counts.failed_before,
    }
    return fields[state]


def expected_state(events: list[dict[str, Any]]) -> str:
    """The state after these events, as the design defines it."""
    same = [one for one in events if one["input_digest"] == digest(one["unit_id"]) and one["task"] == TASK]
    mine = [one for one in same if one["version"] == VERSION]
    if any(one["status"] == "OK" for one in mine):
        return "answered"
    if mine:
        last = max(mine, key=lambda one: one["answered_at"])
        if last["status"] == "SUBMITTED":
            return "submitted"
        passes = last["status"] == "UNAVAILABLE" or last["reason"] == "FORBIDDEN"
        return "retry" if passes else f"failed:{last['reason'] or last['status']}"
    return "outdated" if any(one["status"] == "OK" for one in same) else "new"


def test_state_after_every_pair_of_events(lab: Lab) -> None:
    kinds: list[dict[str, Any]] = [{"status": status, "reason": reason} for status, reason, _ in FAILURES[3:]]
    kinds += [{"status": status, "reason": None, "version": "older"} for status in ("OK", "BLOCKED")]
    kinds += [{"status": "OK", "reason": None, "input_digest": "another"}]
    kinds += [{"status": "OK", "reason": None, "task": "signs"}]
    histories = [(), *((kind,) for kind in kinds), *itertools.product(kinds, kinds)]
    units: dict[str, list[dict[str, Any]]] = {
        f"u{number}": [
            {**event(f"u{number}", digest(f"u{number}"), ""), **kind, "answered_at": at(minute)}
            for minute, kind in enumerate(history)
        ]
        for number, history in enumerate(histories)
    }
    lab.insert(lab.outcomes, [one for events in units.values() for one in events])
    found = lab.remaining(lab.source([observation(unit) for unit in units]), selection=ALL)
    expected = {unit: expected_state(events) for unit, events in units.items()}
    assert found.states == {unit: state for unit, state in expected.items() if state not in ("answered", "submitted")}
    for state in ("answered", "submitted", "new", "retry", "outdated", "failed"):
        assert count_of(found.counts, state) == sum(one.split(":")[0] == state for one in expected.values()), state


def test_selects_the_named_states_and_counts_the_others(lab: Lab) -> None:
    states = {"new": None, "retry": ("UNAVAILABLE", None), "old": ("OK", None), "gone": ("IMAGE_ERROR", "NOT_FOUND")}
    states |= {"no": ("BLOCKED", "SAFETY"), "done": ("OK", None), "sent": ("SUBMITTED", None)}
    lab.insert(
        lab.outcomes,
        [
            event(unit, digest(unit), *outcome, version="older" if unit == "old" else VERSION)
            for unit, outcome in states.items()
            if outcome
        ],
    )
    source = lab.source([observation(unit) for unit in states])
    for text, selected in {
        "new,retry": {"new", "retry"},
        "outdated": {"old"},
        "failed": {"gone", "no"},
        "failed:NOT_FOUND": {"gone"},
        "failed:IMAGE_ERROR,new": {"gone", "new"},
        "failed:safety": {"no"},
        "failed:OTHER": set(),
    }.items():
        found = lab.remaining(source, selection=parse_due(text))
        assert set(found.units) == selected, text
        counts = found.counts
        outdated, failed = (count_of(counts, state) for state in ("outdated", "failed"))
        assert (counts.units_in, counts.already_done, outdated, failed) == (7, 1, 1, 2), text
        parts = counts.remaining + counts.already_done + counts.outdated + counts.failed_before + counts.submitted
        assert parts + counts.left_out == counts.units_in, text


def test_a_changed_input_is_new(lab: Lab) -> None:
    lab.insert(lab.outcomes, [event("t1", digest("a"), "OK", unit_type="asset")])
    source = lab.source([observation("a", capture_time=at(1)), observation("b", capture_time=at(2))])
    assert lab.remaining(source, unit=UnitKind.ASSET).states == {"t1": "new"}
    assert lab.remaining(source, unit=UnitKind.ASSET, max_images=1).units["t1"].input_digest == digest("b")


def test_an_answer_wins_over_failures_of_the_same_time(lab: Lab) -> None:
    lab.insert(lab.outcomes, [event("a", digest("a"), status) for status in ("BLOCKED", "OK", "UNAVAILABLE")])
    assert lab.remaining(lab.source([observation("a")]), selection=ALL).counts.already_done == 1


# -- units ---------------------------------------------------------------------------------------------


def test_a_unit_has_everything_known_about_its_observation(lab: Lab) -> None:
    found = lab.remaining(lab.source([observation("o1:a:b")]), keep_columns=["camera_pose.altitude", "map_url"])
    (unit,) = found.units.values()
    assert unit.images == (
        Image("o1:a:b", "gs://b/s1/v0/o1:a:b.jpg", "2025-06-01T00:00:00Z", -12.5, -80.0, 0.5, (1.0, 2.0, 30.0, 40.5)),
    )
    assert (unit.unit_id, unit.unit_type, unit.input_digest) == ("o1:a:b", "observation", digest("o1:a:b"))
    assert (unit.asset_id, unit.asset_type, unit.snapshot_id) == ("t1", "ASSET_CLASS_UTILITY_POLE", "s1")
    assert (unit.latitude, unit.longitude, unit.map_url) == (52.5, 13.4, "https://maps.example/1")
    assert unit.capture_time == "2025-06-01T00:00:00Z"
    assert unit.extra == {"camera_pose_altitude": 34, "map_url": "https://maps.example/1"}


def test_missing_values_are_none(lab: Lab) -> None:
    bare = {"observation_id": "a", "asset_id": "t", "bbox": {"lo": {"x": 1.0, "y": 2.0}}}
    (unit,) = lab.remaining(lab.source([bare])).units.values()
    assert unit.images == (Image("a", None),)
    assert (unit.capture_time, unit.latitude, unit.asset_type, dict(unit.extra)) == (None, None, None, {})


def test_an_observation_in_two_snapshots_is_one_unit_with_the_newest_uri(lab: Lab) -> None:
    rows = [observation("a", snapshot_id="s9", gcs_uri="gs://b/s9/a.jpg"), observation("a", gcs_uri="gs://b/s1/a.jpg")]
    by_id = lab.remaining(lab.source(rows, name="all_observations"))
    assert by_id.units["a"].images[0].uri == "gs://b/s9/a.jpg"
    assert by_id.counts.units_in == 1
    by_time = lab.remaining(
        lab.source(
            rows, name="all_observations_2", snapshots={"s9": "2025-01-01T00:00:00Z", "s1": "2026-01-01T00:00:00Z"}
        )
    )
    assert by_time.units["a"].images[0].uri == "gs://b/s1/a.jpg"


def test_an_asset_sends_its_newest_images_oldest_first(lab: Lab) -> None:
    rows = [observation(f"o{year}", capture_time=f"{year}-01-01T00:00:00Z") for year in (2020, 2023, 2019, 2025, 2022)]
    rows += [observation("other", asset_id="t2", asset_type="ASSET_CLASS_ROAD_SIGN")]
    found = lab.remaining(lab.source(rows), unit=UnitKind.ASSET, max_images=3)
    unit = found.units["t1"]
    assert [image.observation_id for image in unit.images] == ["o2022", "o2023", "o2025"]
    assert unit.input_digest == digest("o2022", "o2023", "o2025")
    assert unit.capture_time == "2025-01-01T00:00:00Z"
    assert (found.units["t2"].unit_type, found.units["t2"].asset_type) == ("asset", "ASSET_CLASS_ROAD_SIGN")
    assert found.counts.units_in == 2


def test_an_image_without_capture_time_counts_as_the_oldest(lab: Lab) -> None:
    rows = [observation("b", capture_time=None), observation("a"), observation("c", capture_time=None)]
    unit = lab.remaining(lab.source(rows), unit=UnitKind.ASSET, max_images=2).units["t1"]
    assert [image.observation_id for image in unit.images] == ["c", "a"]


def test_an_asset_leaves_out_images_without_uri_if_it_has_others(lab: Lab) -> None:
    rows = [observation("new", gcs_uri=None, capture_time=at(9)), observation("old"), observation("x", gcs_uri="")]
    rows += [observation(name, asset_id="t2", gcs_uri=None, capture_time=at(n)) for n, name in enumerate("pq")]
    found = lab.remaining(lab.source(rows), unit=UnitKind.ASSET)
    assert [image.observation_id for image in found.units["t1"].images] == ["old"]
    assert [image.uri for image in found.units["t2"].images] == [None, None]
    assert lab.remaining(lab.source(rows, name="again")).counts.units_in == 5


def test_counts_rows_without_unit_id(lab: Lab) -> None:
    rows = [observation("a"), observation("", asset_id="t1"), observation("b", asset_id=None)]
    source = lab.source(rows)
    assert lab.remaining(source).counts.rows_without_id == 1
    by_asset = lab.remaining(source, unit=UnitKind.ASSET)
    assert (set(by_asset.units), by_asset.counts.rows_without_id) == ({"t1"}, 2)


def test_counts_assets_without_images_by_type_and_area(lab: Lab) -> None:
    place = {"latitude": 52.5, "longitude": 13.4}
    pole = {"asset_type": "ASSET_CLASS_UTILITY_POLE", "location": place}
    assets = [{"asset_id": name, **pole} for name in ("t1", "t2", "t3", "t3")]
    assets += [{"asset_id": "t4", "asset_type": "ASSET_CLASS_ROAD_SIGN", "location": place}]
    assets += [{"asset_id": "t5", **pole, "location": {"latitude": 1.0, "longitude": 1.0}}]
    source = lab.source([observation("a")], assets=assets)
    assert lab.remaining(source).counts.assets_without_images == 4
    poles = Filters(asset_types=("ASSET_CLASS_UTILITY_POLE",), bbox=(13, 52, 14, 53), captured_from="2030-01-01")
    found = lab.remaining(source, poles, unit=UnitKind.ASSET)
    assert (found.counts.units_in, found.counts.assets_without_images) == (0, 2)


# -- sources -------------------------------------------------------------------------------------------


def test_panoramas_have_a_location_but_no_asset(lab: Lab) -> None:
    row: dict[str, Any] = {
        "observation_id": "o1:x_3:5001ee",
        "gcs_uri": "gs://b/x.jpg",
        "snapshot_id": "s",
        "capture_id": "x",
    }
    row |= {"capture_location": {"latitude": 1.0, "longitude": 2.0}, "capture_time": at(0)}
    source = lab.source([row], schema=PANO_OBSERVATIONS, name="pano_observations_latest")
    (unit,) = lab.remaining(source, Filters(near=(1.0, 2.0, 10))).units.values()
    assert (unit.asset_id, unit.latitude, unit.images[0].bbox) == (None, 1.0, None)
    with pytest.raises(UserError, match=r"unit: asset requires asset_id, which .*profile pano.* does not have"):
        lab.remaining(source, unit=UnitKind.ASSET)


def test_converts_the_columns_of_a_mapping(lab: Lab) -> None:
    schema = [
        field("photo", "STRING"),
        field("number", "INTEGER"),
        field("day", "DATE"),
        field("lat", "NUMERIC"),
        field("seen", "STRING"),
    ]
    table = lab.table(
        "mine", schema, [{"photo": "gs://b/1.png", "number": 7, "day": "2025-05-01", "lat": "1.5", "seen": "?"}]
    )
    mapping = {
        "uri": "photo",
        "observation_id": "number",
        "capture_time": "day",
        "latitude": "lat",
        "detection_time": "seen",
    }
    source = source_of(detected=detect_profile(table.dotted, schema, mapping=mapping), table=table)
    (unit,) = lab.remaining(source).units.values()
    assert (unit.unit_id, unit.capture_time, unit.latitude) == ("7", "2025-05-01T00:00:00Z", 1.5)


def test_reads_a_query(lab: Lab) -> None:
    table = lab.source([observation("a"), observation("b"), observation("c")]).table
    assert table is not None
    sql = f"WITH some AS (SELECT * FROM {table.sql()})\nSELECT observation_id, gcs_uri FROM some -- all of them"
    schema = [field("observation_id", "STRING"), field("gcs_uri", "STRING")]
    source = source_of(detected=detect_profile("the query", schema), query=sql)
    found = lab.remaining(source, Filters(where="source.observation_id != 'b' -- not b"))
    assert set(found.units) == {"a", "c"}


# -- filters -------------------------------------------------------------------------------------------


GRID = [
    observation(
        f"{x}{y}",
        asset_id=f"t{x}{y}",
        asset_type=f"TYPE_{x}",
        location={"latitude": 50.0 + y / 10, "longitude": 10.0 + x / 10},
        capture_time=f"202{y}-01-01T00:00:00Z",
    )
    for x in range(3)
    for y in range(3)
] + [observation("nowhere", asset_type=None, location=None, capture_time=None)]
SQUARE = {"type": "Polygon", "coordinates": [[[9.9, 49.9], [10.15, 49.9], [10.15, 50.15], [9.9, 50.15], [9.9, 49.9]]]}
FAR = {"type": "Polygon", "coordinates": [[[10.19, 50.19], [10.3, 50.19], [10.2, 50.3], [10.19, 50.19]]]}
BOTH = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": area} for area in (SQUARE, FAR)]}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"asset_types": ("TYPE_0", "TYPE_2", "TYPE_9")}, "00 01 02 20 21 22"),
        ({"bbox": (10.05, 50.0, 10.2, 50.1)}, "10 11 20 21"),
        ({"near": (50.0, 10.0, 12_000)}, "00 10 01"),
        ({"near": (50.0, 10.0, 10)}, "00"),
        ({"polygon": json.dumps(SQUARE)}, "00 01 10 11"),
        ({"polygon": json.dumps(BOTH)}, "00 01 10 11 22"),
        ({"captured_from": "2021-01-01"}, "01 02 11 12 21 22"),
        ({"captured_until": "2021-01-01"}, "00 10 20"),
        ({"captured_from": "2021-01-01T00:00:00Z", "captured_until": "2021-01-01T00:00:01Z"}, "01 11 21"),
        ({"where": "observation_id = '00' OR location.latitude > 50.15"}, "00 02 12 22"),
        ({"where": "observation_id = '00' OR TRUE", "asset_types": ("TYPE_1",)}, "10 11 12"),
        ({"bbox": (10.05, 50.0, 10.2, 50.1), "captured_from": "2021-01-01", "asset_types": ("TYPE_2",)}, "21"),
    ],
)
@pytest.mark.parametrize("unit", list(UnitKind))
def test_each_filter(lab: Lab, unit: Any, filters: Any, expected: str) -> None:
    found = lab.remaining(lab.source(GRID), Filters(**filters), unit=unit)
    assert {one.images[0].observation_id for one in found.units.values()} == set(expected.split())


QUOTED = "x') OR TRUE OR ('x' = 'x"


@pytest.mark.parametrize(
    "evil", long_except([QUOTED], [QUOTED, "'; DROP TABLE outcomes; --", "\\", "`", "@task", "{}", "%s"])
)
def test_values_are_never_parsed_as_sql(lab: Lab, evil: str) -> None:
    lab.insert(lab.outcomes, [event("a", digest("a"), "OK", task=evil, version=evil)])
    source = lab.source([observation("a"), observation("b", asset_type=evil)])
    assert set(lab.remaining(source, Filters(asset_types=(evil,))).units) == {"b"}
    spec = QuerySpec(source, Filters(), UnitKind.OBSERVATION, 1, evil, evil, outcomes=lab.outcomes)
    assert [row["unit_id"] for row in lab.rows(build_remaining_query(spec))] == ["b"]
    assert [row["unit_id"] for row in lab.rows(answered_units_query(lab.outcomes, evil, evil, ["a", evil]))] == ["a"]


# -- sample and limit ----------------------------------------------------------------------------------


def test_limits_are_nested_and_deterministic(lab: Lab) -> None:
    source = lab.source([observation(f"o{number}", asset_id=f"t{number % 40}") for number in range(120)])
    order = sorted((f"o{number}" for number in range(120)), key=lambda unit: hashlib.sha256(unit.encode()).hexdigest())
    for limit in (1, 7, 50, 1000):
        assert set(lab.remaining(source, Filters(limit=limit)).units) == set(order[:limit])
    ten = lab.remaining(source, Filters(limit=10), unit=UnitKind.ASSET)
    assert {len(unit.images) for unit in ten.units.values()} == {3}
    assert ten.counts.units_in == 10


def test_a_limit_applies_before_the_state(lab: Lab) -> None:
    source = lab.source([observation(f"o{number}") for number in range(20)])
    first = lab.remaining(source, Filters(limit=5)).units
    lab.insert(lab.outcomes, [event(unit, digest(unit), "OK") for unit in first])
    again = lab.remaining(source, Filters(limit=5))
    assert (again.counts.units_in, again.counts.already_done, again.counts.remaining) == (5, 5, 0)


def test_samples_are_nested_and_keep_all_images_of_an_asset(lab: Lab) -> None:
    source = lab.source([observation(f"o{number}", asset_id=f"t{number % 150}") for number in range(600)])
    share = {
        unit: int(hashlib.sha256(unit.encode()).hexdigest()[:8], 16) / 2**32
        for unit in (f"o{number}" for number in range(600))
    }
    for percent in (0.5, 10, 50, 100):
        units = set(lab.remaining(source, Filters(sample_percent=percent)).units)
        assert units == {unit for unit, part in share.items() if part < percent / 100}
    assets = lab.remaining(source, Filters(sample_percent=20), unit=UnitKind.ASSET).units
    assert {len(unit.images) for unit in assets.values()} == {4}


# -- rejected input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": Filters(limit=0)}, "--limit=0"),
        ({"filters": Filters(where="a) OR (b")}, "is unmatched"),
        ({"max_images": 11}, "max_images is 11; use 1 to 10"),
        ({"max_images": 0}, "max_images is 0"),
        ({"keep_columns": ["map_ur"]}, r"no column 'map_ur' \(did you mean map_url\?\)"),
        ({"keep_columns": ["x` FROM y"]}, "no column"),
        ({"unit": UnitKind.ASSET}, "unit: asset requires asset_id"),
    ],
)
def test_rejects_what_does_not_fit_the_source(change: dict[str, Any], message: str) -> None:
    table = TableName("p", "d", "t")
    source = source_of(detected=detect_profile("p.d.t", PANO_OBSERVATIONS), table=table)
    spec = QuerySpec(source, Filters(), UnitKind.OBSERVATION, 1, "t", "v")
    build_remaining_query(spec)
    with pytest.raises(UserError, match=message):
        build_remaining_query(dataclasses.replace(spec, **change))
