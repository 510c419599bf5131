"""The sample dataset, looked at through the unchanged Google clients: real shapes, and every trap."""

import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.fake_model.image_stats import DARK, SHARP, SOFT, NotAnImageError, measure
from imagebeam.emulators.sample_data.images import MAX_SIDE, VARIANTS, photos, render
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.emulators.sample_data.rows import (
    ASSETS_WITHOUT_IMAGES,
    BUCKET,
    DEFECTS_FROM,
    OBSERVATIONS_PER_ASSET,
    Content,
    build_content,
    observations_per_asset,
)
from imagebeam.emulators.sample_data.tables import DATASET, LOCATION, TABLES
from imagebeam.transforms.core.images import parse_gs_uri, sniff_mime
from imagebeam.transforms.sql.sources import detect_profile

pytestmark = pytest.mark.long

UNITS = 300
Rows = Mapping[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def built(cloud: LocalCloud) -> LocalCloud:
    """The cloud with the dataset in it; made without the environment that points the clients at it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in cloud.environment:
            if name in os.environ:
                patch.delenv(name)
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a person's proxy is not asked
        build_dataset(cloud.url, cloud.project, units=UNITS, seed=7)
    return cloud


@pytest.fixture(scope="module")
def client(built: LocalCloud) -> Iterator[bigquery.Client]:
    with bigquery.Client(project=built.project) as found:
        yield found


@pytest.fixture(scope="module")
def tables(client: bigquery.Client) -> Rows:
    return {name: [dict(row.items()) for row in client.list_rows(f"{DATASET}.{name}")] for name in TABLES}


@pytest.fixture(scope="module")
def bucket(built: LocalCloud) -> Iterator[storage.Bucket]:
    with storage.Client(project=built.project) as found:
        yield found.bucket(BUCKET)


@pytest.fixture(scope="module")
def objects(bucket: storage.Bucket) -> dict[str, storage.Blob]:
    return {blob.name: blob for blob in bucket.list_blobs()}


def object_name(uri: str) -> str:
    found = parse_gs_uri(uri)
    assert found is not None
    assert found[0] == BUCKET
    return found[1]


def test_dataset_is_multi_region_and_has_all_tables(client: bigquery.Client) -> None:
    assert client.get_dataset(DATASET).location == LOCATION == "US"
    assert {table.table_id for table in client.list_tables(DATASET)} >= set(TABLES)
    for name, schema in TABLES.items():
        found = client.get_table(f"{DATASET}.{name}").schema
        assert [field.to_api_repr() for field in found] == [field.to_api_repr() for field in schema], name


def test_observation_tables_are_detected_by_their_columns(client: bigquery.Client) -> None:
    expected = {"latest": "legacy", "all": "legacy", "cropped": "cropped", "full": "full_frame", "pano": "pano"}
    for name in (name for name in TABLES if "observations" in name):
        fields = [field.to_api_repr() for field in client.get_table(f"{DATASET}.{name}").schema]
        assert detect_profile(name, fields).profile == expected[name.split("_")[0]]


def test_latest_observations_have_the_requested_number_of_unique_rows(tables: Rows) -> None:
    for name, count in (
        ("latest_observations", UNITS),
        ("cropped_observations_latest", 60),
        ("full_frame_observations_latest", 60),
        ("pano_observations_latest", 60),
    ):
        assert len(tables[name]) == len({row["observation_id"] for row in tables[name]}) == count
    every = [row["observation_id"] for name in TABLES if name.endswith("tions_latest") for row in tables[name]]
    assert len(set(every)) == len(every)


def test_ids_have_the_real_format(tables: Rows) -> None:
    hexes = "[0-9a-f]{32}"
    endings = {"ASSET_CLASS_ROAD_SIGN": ("ffff005f", "00110060"), "ASSET_CLASS_UTILITY_POLE": ("ffff01ee", "00250082")}
    for row in tables["all_observations"]:
        asset, observation = endings[row["asset_type"]]
        assert re.fullmatch(f"t1:{hexes}:{asset}", row["asset_id"])
        assert re.fullmatch(f"o1:{hexes}:{observation}", row["observation_id"])
    for row in tables["pano_observations_all"]:
        named = re.fullmatch(r"o1:([\w-]{22})_([0-6]):5001ee", row["observation_id"])
        assert named is not None
        assert named[1] == (row["pano_id"] or row["capture_id"])


def test_observations_per_asset_are_realistic(tables: Rows) -> None:
    sizes = Counter(Counter(row["asset_id"] for row in tables["latest_observations"]).values())
    assets = sum(sizes.values())
    assert set(sizes) == set(range(1, 11))
    for size, count in enumerate(OBSERVATIONS_PER_ASSET, 1):
        assert sizes[size] / assets == pytest.approx(count / sum(OBSERVATIONS_PER_ASSET), abs=0.02)
    assert UNITS / assets == pytest.approx(2.31, abs=0.15)
    known = {row["asset_id"] for row in tables["latest_assets"]}
    assert len(known) == len(tables["latest_assets"])
    assert known >= {row["asset_id"] for row in tables["latest_observations"]}
    assert 1 - assets / len(known) == pytest.approx(ASSETS_WITHOUT_IMAGES / 500_531, abs=0.01)


def test_rows_of_an_asset_share_location_and_detection_time(tables: Rows) -> None:
    for name in ("all_observations", "cropped_observations_all", "full_frame_observations_all"):
        rows = defaultdict(list)
        for row in tables[name]:
            rows[row["snapshot_id"], row["asset_id"]].append(row)
            assert row["camera_pose"]["latitude"] != row["location"]["latitude"]
        for group in rows.values():
            assert {row["detection_time"] for row in group} == {max(row["capture_time"] for row in group)}
            assert len({str(row["location"]) for row in group}) == 1


def test_capture_times_span_ten_years(tables: Rows) -> None:
    years = Counter(row["capture_time"].year for row in tables["latest_observations"])
    assert years[2025] / UNITS == pytest.approx(292_344 / 480_620, abs=0.08)
    assert min(years) < 2020
    assert max(years) == 2025


def test_newest_snapshot_equals_the_latest_tables(tables: Rows) -> None:
    created = {row["snapshot_id"]: row["creation_time"] for row in tables["snapshots"]}
    newest = max(created, key=lambda snapshot: created[snapshot])
    assert len(created) == 2
    for name, rows in tables.items():
        if "latest" in name:
            assert {row["snapshot_id"] for row in rows} == {newest}, name
        else:
            assert {row["snapshot_id"] for row in rows} == set(created), name


def test_observations_change_between_snapshots(tables: Rows) -> None:
    for name in (
        "all_observations",
        "cropped_observations_all",
        "full_frame_observations_all",
        "pano_observations_all",
    ):
        uris = defaultdict(list)
        for row in tables[name]:
            uris[row["observation_id"]].append(row["gcs_uri"])
        twice = [found for found in uris.values() if len(found) == 2]
        assert len(twice) >= 15
        assert all(len(set(found)) == 2 for found in twice)
        assert max(map(len, uris.values())) == 2
    latest = {row["observation_id"] for row in tables["latest_observations"]}
    assert {row["observation_id"] for row in tables["all_observations"]} - latest


def test_some_uris_are_null_and_some_objects_invalid_or_missing(tables: Rows, objects: dict[str, storage.Blob]) -> None:
    uris = [row["gcs_uri"] for row in tables["latest_observations"]]
    assert uris.count(None) == 2
    names = [object_name(uri) for uri in uris if uri is not None]
    assert sum(name not in objects for name in names) == 1
    broken = []
    for name in set(names) & set(objects):
        try:
            measure(objects[name].download_as_bytes())
        except NotAnImageError:
            broken.append(name)
    assert len(broken) == 1
    assert objects[broken[0]].size > 0


def test_objects_are_named_by_snapshot_and_one_png_is_named_jpg(tables: Rows, objects: dict[str, storage.Blob]) -> None:
    kinds: Counter[tuple[str, str | None]] = Counter()
    for row in tables["latest_observations"]:
        if row["gcs_uri"] is None:
            continue
        name = object_name(row["gcs_uri"])
        stem, ending = name.rsplit(".", 1)
        assert stem == f"{row['snapshot_id']}/v0/{row['observation_id']}"
        if name in objects:
            assert objects[name].content_type == {"jpg": "image/jpeg", "png": "image/png"}[ending]
            kinds[ending, sniff_mime(objects[name].download_as_bytes(end=63))] += 1
    assert kinds["jpg", "image/png"] == 1
    assert set(kinds) == {("jpg", "image/jpeg"), ("png", "image/png"), ("jpg", "image/png")}
    assert kinds["jpg", "image/jpeg"] > 8 * kinds["png", "image/png"] > 0


def test_all_other_uris_have_a_small_image(tables: Rows, objects: dict[str, storage.Blob]) -> None:
    traps = {name for row in tables["latest_observations"] if (name := row["gcs_uri"]) is not None}
    sizes = set()
    for table in ("cropped_observations_all", "full_frame_observations_all", "pano_observations_all"):
        assert {row["gcs_uri"] for row in tables[table] if row["snapshot_id"] in row["gcs_uri"]} & traps
        for row in tables[table]:
            found = measure(objects[object_name(row["gcs_uri"])].download_as_bytes())
            assert max(found.width, found.height) <= MAX_SIDE
            sizes.add((found.width, found.height))
    assert len(sizes) > 10


def test_bounding_boxes_fit_full_frames_only(tables: Rows, objects: dict[str, storage.Blob]) -> None:
    for table, inside in (("full_frame_observations_latest", True), ("cropped_observations_latest", False)):
        for row in tables[table]:
            with Image.open(io.BytesIO(objects[object_name(row["gcs_uri"])].download_as_bytes())) as image:
                width, height = image.size
            low, high = row["bbox"]["lo"], row["bbox"]["hi"]
            assert 0 <= low["x"] < high["x"]
            assert 0 <= low["y"] < high["y"]
            assert (high["x"] <= width and high["y"] <= height) == inside


def test_panoramas_have_no_asset(tables: Rows) -> None:
    rows = tables["pano_observations_latest"]
    captures = {row["capture_id"]: row["pano_id"] for row in rows}
    assert 0.5 < list(captures.values()).count(None) / len(captures) < 0.85
    assert not {"asset_id", "asset_type"} & set(rows[0])
    assert Counter(row["capture_id"] for row in rows).most_common(1)[0][1] == 7


def test_second_build_replaces_the_rows(client: bigquery.Client, built: LocalCloud, tables: Rows) -> None:
    build_dataset(built.url, built.project, units=UNITS, seed=7)
    again = {row["observation_id"] for row in client.list_rows(f"{DATASET}.latest_observations")}
    assert again == {row["observation_id"] for row in tables["latest_observations"]}
    assert client.get_table(f"{DATASET}.latest_observations").num_rows == UNITS


# -- without a cloud ---------------------------------------------------------------------------------------


def spoilt(content: Content) -> tuple[int, int, int, int]:
    """How many addresses are NULL, objects cut off, objects missing, PNGs called .jpg in the latest snapshot."""
    uris = [row["gcs_uri"] for row in content.tables["latest_observations"]]
    names = [object_name(uri) for uri in uris if uri is not None]
    found = [content.objects[name] for name in names if name in content.objects]
    disguised = [name for name in names if name.endswith(".jpg") and content.objects.get(name, (None,))[0]]
    return (
        uris.count(None),
        sum(cut for _, cut in found),
        len(names) - len(found),
        sum(content.objects[name][0].kind == "PNG" for name in disguised),
    )


@settings(deadline=None, max_examples=60)
@given(units=st.integers(1, 120), seed=st.integers(0, 1000))
def test_dataset_of_any_size_has_its_rows_and_invalid_data(units: int, seed: int) -> None:
    content = build_content(units, seed)
    latest = content.tables["latest_observations"]
    assert len({row["observation_id"] for row in latest}) == len(latest) == units
    assert spoilt(content) == ((2, 1, 1, 1) if units >= DEFECTS_FROM else (0, 0, 0, 0))
    assert set(content.tables) == set(TABLES)
    assert all(content.tables.values())


@given(st.integers(1, 5000))
def test_asset_sizes_sum_to_the_units(units: int) -> None:
    sizes = observations_per_asset(units)
    assert sum(sizes) == units
    assert set(sizes) <= set(range(1, 11))


def test_seed_determines_the_images() -> None:
    one, same, other = build_content(20, 1), build_content(20, 1), build_content(20, 2)
    assert one == same
    assert [one.data(name) for name in one.objects] == [same.data(name) for name in same.objects]
    assert not one.objects.keys() & other.objects.keys()


def test_views_of_an_asset_are_parts_of_one_photo() -> None:
    content = build_content(UNITS, 0)
    views = defaultdict(list)
    for row in content.tables["latest_observations"]:
        if row["gcs_uri"] is not None and object_name(row["gcs_uri"]) in content.objects:
            views[row["asset_id"]].append(content.objects[object_name(row["gcs_uri"])][0])
    assert all(len({view.photo for view in found}) == 1 for found in views.values())
    assert all(len({view.box for view in found}) == len(found) for found in views.values())
    assert {view.photo for found in views.values() for view in found} == set(photos())


def test_degraded_images_measure_as_degraded() -> None:
    found = defaultdict(list)
    for picture, _ in build_content(UNITS, 0).objects.values():
        found[picture.variant].append(measure(render(picture)))
    assert set(found) == set(VARIANTS)
    assert all(one.sharpness < SOFT for one in found["blurred"])
    assert all(one.brightness < DARK for one in found["dark"])
    assert all(one.brightness > 0.42 for one in found["overexposed"])
    assert all(one.grey for one in found["grey"])
    assert all(max(one.width, one.height) < 60 for one in found["low_resolution"])
    assert all(one.black_share > 0.6 for one in found["redacted"])
    assert sum(one.sharpness > SHARP for one in found["plain"]) > 0.8 * len(found["plain"])


def test_dataset_needs_at_least_one_unit() -> None:
    with pytest.raises(ValueError, match="units must be at least 1"):
        build_content(0, 0)
