"""Profiles of sources: detection, column mapping and error messages."""

import pickle
from typing import Any

import pytest
from support.insights_schema import ASSET_OBSERVATIONS, PANO_OBSERVATIONS, field

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.sql.sources import (
    CANONICAL,
    Source,
    canonical_sql,
    companions,
    detect_profile,
    source_of,
)


def without(schema: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [column for column in schema if column["name"] not in names]


@pytest.mark.parametrize(
    ("table", "schema", "profile"),
    [
        ("p.imagery_insights___preview___us.latest_observations", ASSET_OBSERVATIONS, "legacy"),
        ("p.d.all_observations", ASSET_OBSERVATIONS, "legacy"),
        ("p.d.cropped_observations_latest", ASSET_OBSERVATIONS, "cropped"),
        ("p.d.full_frame_observations_all", ASSET_OBSERVATIONS, "full_frame"),
        ("p.d.pano_observations_latest", PANO_OBSERVATIONS, "pano"),
        ("p.d.my_copy", PANO_OBSERVATIONS, "pano"),
        ("p.d.my_poles", [*ASSET_OBSERVATIONS, field("mine", "STRING", mode="REPEATED")], "legacy"),
        ("the query", [field("observation_id", "STRING"), field("gcs_uri", "STRING")], "custom"),
        ("p.d.photos", [field("uri", "STRING"), field("taken", "DATE")], "custom"),
    ],
)
def test_detects_the_profile_by_columns_and_name(table: str, schema: list[dict[str, Any]], profile: str) -> None:
    found = detect_profile(table, schema)
    assert found.profile == profile
    assert found.why
    assert {"observation_id", "uri"} <= set(found.columns)
    assert set(found.columns) <= set(CANONICAL)


def test_pano_maps_no_asset_and_no_box() -> None:
    assert set(detect_profile("t", ASSET_OBSERVATIONS).columns) == set(CANONICAL)
    pano = detect_profile("t", PANO_OBSERVATIONS)
    assert set(CANONICAL) - set(pano.columns) == {
        *("asset_id", "asset_type", "detection_time", "x0", "y0", "x1", "y1"),
    }
    assert pano.columns["latitude"].path == "capture_location.latitude"


def test_ignores_the_case_of_names() -> None:
    shouting = [{**column, "name": column["name"].upper()} for column in ASSET_OBSERVATIONS]
    assert detect_profile("t", shouting).columns["heading"].path == "CAMERA_POSE.heading"


def test_optional_columns_may_be_missing() -> None:
    found = detect_profile("t", without(ASSET_OBSERVATIONS, "bbox", "camera_pose", "map_url"))
    assert found.profile == "legacy"
    assert not {"x0", "heading", "map_url"} & set(found.columns)


def test_names_the_columns_that_a_given_profile_lacks() -> None:
    with pytest.raises(UserError, match=r"does not match profile cropped: it lacks .*asset_id.*it has capture_id") as e:
        detect_profile("p.d.pano", PANO_OBSERVATIONS, profile="cropped")
    assert "\n" not in str(e.value)
    assert detect_profile("p.d.cropped_x", ASSET_OBSERVATIONS, profile="full_frame").profile == "full_frame"


def test_names_the_columns_of_a_table_without_profile() -> None:
    with pytest.raises(
        UserError, match=r"p.d.t matches no profile: for legacy it lacks .*it has name, price.*--columns=uri=COLUMN"
    ):
        detect_profile("p.d.t", [field("name", "STRING"), field("price", "NUMERIC")])


def test_suggests_a_profile() -> None:
    with pytest.raises(UserError, match=r"did you mean full_frame\?"):
        detect_profile("t", ASSET_OBSERVATIONS, profile="fullframe")


def test_rejects_a_required_column_of_a_wrong_type() -> None:
    schema = [*without(ASSET_OBSERVATIONS, "capture_time"), field("capture_time", "BOOL")]
    with pytest.raises(UserError, match="column capture_time is BOOL, but capture_time needs DATE or DATETIME"):
        detect_profile("t", schema)


def test_maps_a_custom_table_by_name_and_skips_unsupported_types() -> None:
    schema = [
        field("observation_id", "INTEGER"),
        field("uri", "STRING"),
        field("heading", "STRING"),
        field("latitude", "NUMERIC"),
        field("capture_time", "DATE"),
    ]
    found = detect_profile("t", schema, profile="custom")
    assert set(found.columns) == {"observation_id", "uri", "latitude", "capture_time"}


def test_a_mapping_needs_only_the_uri() -> None:
    schema = [field("photo", "STRING"), field("where", "RECORD", field("lat", "FLOAT")), field("asset_id", "STRING")]
    found = detect_profile("t", schema, mapping={"uri": "photo", "latitude": "where.lat"})
    assert {name: column.path for name, column in found.columns.items()} == {
        "uri": "photo",
        "latitude": "where.lat",
        "observation_id": "photo",
    }
    assert found.profile == "custom"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"latitude": "lat"}, "--columns=uri=COLUMN"),
        ({"uri": "foto"}, r"--columns=uri='foto': t has no such column \(did you mean photo\?\)"),
        ({"uri": "photo", "latitud": "lat"}, r"'latitud' is not a canonical column .*did you mean latitude\?"),
        ({"uri": "lat"}, "column lat is FLOAT64, but uri needs STRING"),
        ({"uri": "tags"}, "column tags is ARRAY<STRING>, but uri needs STRING"),
        ({"uri": "photo`"}, "has no such column"),
    ],
)
def test_rejects_an_invalid_mapping(mapping: dict[str, str], message: str) -> None:
    schema = [field("photo", "STRING"), field("lat", "FLOAT"), field("tags", "STRING", mode="REPEATED")]
    with pytest.raises(UserError, match=message):
        detect_profile("t", schema, mapping=mapping)
    with pytest.raises(UserError, match="needs profile custom"):
        detect_profile("t", schema, profile="legacy", mapping=mapping)


def source(schema: list[dict[str, Any]], **options: Any) -> Source:
    return source_of(detected=detect_profile("t", schema, **options), table=TableName("p", "d", "t"))


def test_converts_columns_to_their_canonical_type() -> None:
    custom = source(
        [
            field("uri", "STRING"),
            field("observation_id", "INTEGER"),
            field("capture_time", "DATETIME"),
            field("latitude", "NUMERIC"),
            field("longitude", "FLOAT"),
        ]
    )
    assert canonical_sql(custom, "observation_id", "r") == "CAST(r.`observation_id` AS STRING)"
    assert canonical_sql(custom, "capture_time", "r") == "CAST(r.`capture_time` AS TIMESTAMP)"
    assert canonical_sql(custom, "latitude", "r") == "CAST(r.`latitude` AS FLOAT64)"
    assert canonical_sql(custom, "longitude", "r") == "r.`longitude`"
    assert canonical_sql(custom, "uri", "r") == "NULLIF(r.`uri`, '')"
    assert canonical_sql(custom, "heading", "r") == "CAST(NULL AS FLOAT64)"


def test_rejects_column_names_that_need_escaping() -> None:
    evil = source([field("a` b", "STRING")], mapping={"uri": "a` b"})
    with pytest.raises(UserError, match="not a plain column name"):
        canonical_sql(evil, "uri", "raw")


def test_names_kept_columns_by_their_path() -> None:
    insights = source(ASSET_OBSERVATIONS)
    assert insights.kept(["Map_URL", "camera_pose.altitude"]) == {
        "map_url": "map_url",
        "camera_pose_altitude": "camera_pose.altitude",
    }
    with pytest.raises(UserError, match=r"no column 'camera_pose.altitud' \(did you mean camera_pose.altitude\?\)"):
        insights.kept(["camera_pose.altitud"])


def test_rejects_kept_columns_of_the_same_name() -> None:
    twins = source([field("uri", "STRING"), field("a_b", "STRING"), field("a", "RECORD", field("b", "STRING"))])
    with pytest.raises(UserError, match="have the same name"):
        twins.kept(["a_b", "a.b"])


@pytest.mark.parametrize(
    ("table", "assets"),
    [
        ("latest_observations", "latest_assets"),
        ("cropped_observations_all", "cropped_assets_all"),
        ("pano_observations_latest", None),
        ("my_poles", None),
    ],
)
def test_names_companion_tables(table: str, assets: str | None) -> None:
    snapshots, found = companions(TableName("p", "d", table))
    assert snapshots.dotted == "p.d.snapshots"
    assert (found.table if found else None) == assets


def test_a_source_is_a_table_or_a_query_and_can_be_pickled() -> None:
    detected = detect_profile("t", ASSET_OBSERVATIONS)
    query = source_of(detected=detected, query="SELECT 1 ;")
    assert (query.query, query.label) == ("SELECT 1", "the query (profile legacy)")
    assert pickle.loads(pickle.dumps(query)) == query
    with pytest.raises(UserError, match="give exactly one of"):
        source_of(detected=detected)
    with pytest.raises(UserError, match="give exactly one of"):
        source_of(detected=detected, query="SELECT 1", table=TableName("p", "d", "t"))
    with pytest.raises(UserError, match="semicolon"):
        source_of(detected=detected, query="SELECT 1; DELETE FROM x WHERE TRUE")
