"""Cloud Storage of the local cloud, through the unchanged google-cloud-storage client."""

import base64
import hashlib
import io
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google.cloud.storage as storage
import google_crc32c
import pytest
import requests
from google.api_core import exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.storage.object_names import SIBLING, from_parts, name_error, to_parts
from imagebeam.emulators.storage.object_store import ObjectStore

NAMES = st.text(
    alphabet=st.one_of(st.sampled_from("/.%!+=?#&a:é\0 "), st.characters(codec="utf-8")),
    min_size=1,
    max_size=300,
).filter(lambda name: name_error(name) is None)


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> storage.Client:
    return storage.Client()


@pytest.fixture
def bucket(cloud: LocalCloud, client: storage.Client) -> Iterator[storage.Bucket]:
    made = client.create_bucket(f"test-{uuid.uuid4().hex[:12]}")
    yield made
    cloud.reset()
    made.delete(force=True)


@given(NAMES)
def test_object_names_map_to_safe_paths_and_back(name: str) -> None:
    parts = to_parts(name)
    assert from_parts(parts) == name
    assert from_parts([*parts[:-1], SIBLING + parts[-1]]) == name
    for part in parts:
        assert part not in ("", ".", "..")
        assert not {"/", "\0"} & set(part)
        assert len(part.encode()) <= 200


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(NAMES, min_size=1, max_size=6))
def test_object_names_round_trip_through_the_client(bucket: storage.Bucket, names: set[str]) -> None:
    for name in names:
        bucket.blob(name).upload_from_string(name.encode(), content_type="text/plain")
    assert {blob.name for blob in bucket.list_blobs()} == names
    for name in names:
        assert bucket.blob(name).download_as_bytes() == name.encode()
        bucket.blob(name).delete()
    assert list(bucket.list_blobs()) == []


def test_plain_object_name_is_its_path(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    name = "observations/CAoSLEFGMV:2024-05-01T10:00:00Z/0 1.jpg"
    bucket.blob(name).upload_from_string(b"x")
    assert (cloud.directory / "storage" / bucket.name / name).read_bytes() == b"x"


def test_object_names_stay_in_the_bucket_directory(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    before = set((cloud.directory / "storage").iterdir())  # other tests have buckets too
    for name in ("../out", "a/../../out", "/etc/passwd", "..%2Fout", "a/./b"):
        bucket.blob(name).upload_from_string(b"x")
        assert bucket.blob(name).download_as_bytes() == b"x"
    assert {blob.name for blob in bucket.list_blobs()} == {
        "../out",
        "a/../../out",
        "/etc/passwd",
        "..%2Fout",
        "a/./b",
    }
    assert set((cloud.directory / "storage").iterdir()) == before


@pytest.mark.parametrize("path", ["b/..%2f..%2fetc/o/passwd", "b/../o/credentials.json", "b/%2e%2e/o/x"])
def test_bucket_names_stay_in_the_storage_directory(cloud: LocalCloud, path: str) -> None:
    request = requests.Request("GET", cloud.url).prepare()
    request.url = f"{cloud.url}/storage/v1/{path}?alt=media"
    with requests.Session() as session:
        assert session.send(request).status_code in (404, 501)


def test_object_and_prefix_may_share_a_name(bucket: storage.Bucket) -> None:
    names = ["a", "a/", "a//", "a//b", "a/b", "a/b/c"]
    for order in (names, names[::-1]):
        for name in order:
            bucket.blob(name).upload_from_string(name)
        assert [blob.name for blob in bucket.list_blobs()] == sorted(names)
        assert [bucket.blob(name).download_as_text() for name in names] == names
        bucket.delete_blobs(names)
        assert list(bucket.list_blobs()) == []


def test_file_copied_into_the_directory_is_an_object(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    path = cloud.directory / "storage" / bucket.name / "mine" / "cat.jpg"
    path.parent.mkdir()
    path.write_bytes(b"by hand")
    blob = bucket.get_blob("mine/cat.jpg")
    assert (blob.content_type, blob.size, blob.metageneration) == ("image/jpeg", 7, 1)
    assert blob.crc32c == base64.b64encode(google_crc32c.Checksum(b"by hand").digest()).decode()
    path.write_bytes(b"edited")
    assert bucket.get_blob("mine/cat.jpg").generation > blob.generation
    assert bucket.blob("mine/cat.jpg").download_as_bytes() == b"edited"


def test_objects_have_checksums_and_metadata(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a.bin")
    blob.metadata = {"camera": "left", "ü": "ß"}
    blob.cache_control = "no-store"
    blob.upload_from_string(b"payload", content_type="image/x-special", checksum="crc32c")
    stored = bucket.get_blob("a.bin")
    assert stored.md5_hash == base64.b64encode(hashlib.md5(b"payload").digest()).decode()
    assert stored.crc32c == base64.b64encode(google_crc32c.Checksum(b"payload").digest()).decode()
    assert stored.content_type == "image/x-special"
    assert stored.metadata == {"camera": "left", "ü": "ß"}
    stored.metadata = {"camera": None, "lens": "wide"}
    stored.patch()
    again = bucket.get_blob("a.bin")
    assert again.metadata == {"ü": "ß", "lens": "wide"}
    assert (again.metageneration, again.generation) == (2, stored.generation)
    assert again.cache_control == "no-store"
    blob.upload_from_string(b"new")
    fresh = bucket.get_blob("a.bin")
    assert fresh.generation > again.generation
    assert fresh.metageneration == 1


def test_rejects_upload_with_wrong_checksum(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.md5_hash = base64.b64encode(b"0" * 16).decode()
    with pytest.raises(exceptions.BadRequest, match="doesn't match"):
        blob.upload_from_string(b"payload", checksum=None)
    assert not bucket.blob("a").exists()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 0, b"0"),
        (2, 4, b"234"),
        (7, None, b"789"),
        (-3, None, b"789"),
        (-30, None, b"0123456789"),
        (8, 99, b"89"),
    ],
)
def test_reads_byte_ranges(bucket: storage.Bucket, start: int, end: int | None, expected: bytes) -> None:
    bucket.blob("digits").upload_from_string(b"0123456789")
    assert bucket.blob("digits").download_as_bytes(start=start, end=end) == expected


def test_range_beyond_the_end_is_416(bucket: storage.Bucket) -> None:
    bucket.blob("digits").upload_from_string(b"0123456789")
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        bucket.blob("digits").download_as_bytes(start=10)


def test_both_download_urls_work(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    bucket.blob("a b").upload_from_string(b"bytes", content_type="image/png")
    for prefix in ("/storage/v1", "/download/storage/v1"):
        answer = requests.get(f"{cloud.url}{prefix}/b/{bucket.name}/o/a%20b?alt=media", timeout=120)
        assert (answer.content, answer.headers["Content-Type"]) == (b"bytes", "image/png")
        assert "crc32c=" in answer.headers["X-Goog-Hash"]


def test_resumable_upload_in_chunks(bucket: storage.Bucket) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB
    blob = bucket.blob("big", chunk_size=256 * 1024)
    blob.upload_from_file(io.BytesIO(data), content_type="image/jpeg", checksum="md5")
    assert (blob.size, blob.content_type) == (len(data), "image/jpeg")
    assert bucket.blob("big", chunk_size=256 * 1024).download_as_bytes() == data


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1])
def test_uploads_stream_of_unknown_length(bucket: storage.Bucket, size: int) -> None:
    with bucket.blob("stream").open("wb", chunk_size=256 * 1024) as stream:
        stream.write(b"x" * size)
    with bucket.blob("stream").open("rb", chunk_size=100_000) as stream:
        assert stream.read() == b"x" * size


def test_interrupted_upload_reports_received_bytes(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    url = bucket.blob("cut").create_resumable_upload_session(content_type="text/plain")
    sent = requests.put(
        url,
        data=b"x" * 300_000,
        headers={"Content-Range": "bytes 0-299999/*"},
        timeout=120,
        allow_redirects=False,
    )
    assert (sent.status_code, sent.headers["Range"]) == (308, "bytes=0-262143")
    asked = requests.put(url, headers={"Content-Range": "bytes */*"}, timeout=120, allow_redirects=False)
    assert (asked.status_code, asked.headers["Range"]) == (308, "bytes=0-262143")
    last = requests.put(url, data=b"y" * 10, headers={"Content-Range": "bytes 262144-262153/262154"}, timeout=120)
    assert last.json()["size"] == "262154"
    assert requests.put(url, headers={"Content-Range": "bytes */*"}, timeout=120).status_code == 200
    assert bucket.blob("cut").download_as_bytes() == b"x" * 262144 + b"y" * 10


def test_canceled_upload_is_deleted(bucket: storage.Bucket) -> None:
    url = bucket.blob("cut").create_resumable_upload_session()
    assert requests.delete(url, timeout=120).status_code == 499
    assert requests.put(url, data=b"x", timeout=120).status_code == 404
    assert not bucket.blob("cut").exists()


def test_create_if_absent_succeeds_once(bucket: storage.Bucket) -> None:
    bucket.blob("claim").upload_from_string(b"mine", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("claim").upload_from_string(b"theirs", if_generation_match=0)
    assert bucket.blob("claim").download_as_bytes() == b"mine"


def test_one_of_concurrent_creations_succeeds(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    url = f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=claims/1&ifGenerationMatch=0"
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: requests.post(url, data=b"%d" % n, timeout=120).status_code, range(24)))
    assert sorted(codes) == [200] + [412] * 23


def test_generation_and_metageneration_preconditions(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string(b"1")
    old = blob.generation
    blob.upload_from_string(b"2", if_generation_match=old)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("a").upload_from_string(b"3", if_generation_match=old)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("a").upload_from_string(b"3", if_metageneration_match=7)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("a").delete(if_generation_match=old)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("a").download_as_bytes(if_generation_match=old)
    with pytest.raises(exceptions.NotModified):
        bucket.blob("a").reload(if_generation_not_match=blob.generation)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("a", generation=old).download_as_bytes()
    bucket.blob("a").delete(if_generation_match=blob.generation)
    assert not bucket.blob("a").exists()


def test_lists_with_pages_prefixes_offsets_and_globs(bucket: storage.Bucket) -> None:
    names = ["a/1.jpg", "a/2.png", "a/b/3.jpg", "b.jpg", "b/4.jpg", "c/", "c/5.jpg", "é.jpg"]
    for name in names:
        bucket.blob(name).upload_from_string(b"")
    assert [blob.name for blob in bucket.list_blobs(page_size=3)] == names
    assert [blob.name for blob in bucket.list_blobs(max_results=2)] == names[:2]
    assert [blob.name for blob in bucket.list_blobs(prefix="a/")] == names[:3]
    assert [blob.name for blob in bucket.list_blobs(start_offset="a/2.png", end_offset="b/4.jpg")] == names[1:4]
    top = bucket.list_blobs(delimiter="/", page_size=2)
    assert [blob.name for blob in top] == ["b.jpg", "é.jpg"]
    assert top.prefixes == {"a/", "b/", "c/"}
    trailing = bucket.list_blobs(delimiter="/", include_trailing_delimiter=True)
    assert [blob.name for blob in trailing] == ["b.jpg", "c/", "é.jpg"]
    assert [blob.name for blob in bucket.list_blobs(match_glob="**.jpg")] == [n for n in names if "jpg" in n]
    assert [blob.name for blob in bucket.list_blobs(match_glob="a/*.{jpg,png}")] == names[:2]
    assert [blob.name for blob in bucket.list_blobs(match_glob="?/[3-5].jpg")] == ["b/4.jpg", "c/5.jpg"]
    (only,) = bucket.list_blobs(prefix="b/", fields="items(name),nextPageToken")
    assert (only.name, only.size) == ("b/4.jpg", None)


def test_compose_copy_rewrite_and_rename(client: storage.Client, bucket: storage.Bucket) -> None:
    for name in ("1", "2"):
        bucket.blob(name).upload_from_string(name * 3, content_type="text/plain")
    whole = bucket.blob("whole")
    whole.content_type = "text/csv"
    whole.compose([bucket.blob("1"), bucket.blob("2")], if_generation_match=0)
    assert (whole.download_as_bytes(), whole.component_count, whole.md5_hash) == (b"111222", 2, None)
    copied = bucket.copy_blob(bucket.blob("1"), bucket, "copy of 1")
    assert (copied.content_type, copied.download_as_bytes()) == ("text/plain", b"111")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.copy_blob(bucket.blob("2"), bucket, "copy of 1", if_generation_match=0)
    with pytest.raises(exceptions.NotFound):
        bucket.copy_blob(bucket.blob("none"), bucket, "x")
    assert bucket.blob("again").rewrite(bucket.blob("2")) == (None, 3, 3)
    bucket.rename_blob(bucket.blob("2"), "a/2")
    assert sorted(blob.name for blob in bucket.list_blobs()) == ["1", "a/2", "again", "copy of 1", "whole"]


def test_batch_request_answers_each_call(client: storage.Client, bucket: storage.Bucket) -> None:
    for number in range(5):
        bucket.blob(f"b/{number}").upload_from_string(b"x")
    with client.batch(raise_exception=False) as batch:
        for number in (0, 9, 1):
            bucket.delete_blob(f"b/{number}")
        blob = bucket.blob("b/2")
        blob.metadata = {"name": "zwei – 2"}
        blob.patch()
    assert [response.status_code for response in batch._responses] == [204, 404, 204, 200]
    assert [blob.name for blob in bucket.list_blobs()] == ["b/2", "b/3", "b/4"]
    assert bucket.get_blob("b/2").metadata == {"name": "zwei – 2"}


def test_buckets_keep_labels_and_are_deleted_when_empty(client: storage.Client, bucket: storage.Bucket) -> None:
    with pytest.raises(exceptions.Conflict):
        client.create_bucket(bucket.name)
    with pytest.raises(exceptions.BadRequest):
        client.create_bucket("Not_OK")
    bucket.labels = {"team": "roads"}
    bucket.patch()
    found = client.get_bucket(bucket.name)
    assert (found.labels, found.location, found.location_type) == ({"team": "roads"}, "US", "multi-region")
    assert found.project_number == 100000000001
    assert found.soft_delete_policy.retention_duration_seconds == 0
    assert bucket.name in [known.name for known in client.list_buckets()]
    assert bucket.test_iam_permissions(["storage.objects.create"]) == ["storage.objects.create"]
    bucket.blob("x").upload_from_string(b"")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        bucket.delete()
    assert client.lookup_bucket("no-such-bucket") is None
    with pytest.raises(exceptions.NotFound, match="bucket does not exist"):
        client.bucket("no-such-bucket").blob("a").upload_from_string(b"")


def test_rejects_methods_that_are_not_implemented(client: storage.Client, bucket: storage.Bucket) -> None:
    bucket.versioning_enabled = True
    with pytest.raises(exceptions.MethodNotImplemented, match="versioning"):
        bucket.patch()
    with pytest.raises(exceptions.MethodNotImplemented, match="softDeleted"):
        list(bucket.list_blobs(soft_deleted=True))
    with pytest.raises(exceptions.MethodNotImplemented, match="/acl"):
        list(bucket.blob("a").acl)


def test_faults_match_by_name_a_limited_number_of_times(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    bucket.blob("poison/a:1").upload_from_string(b"x")
    bucket.blob("fine").upload_from_string(b"x")
    rule = {
        "match": "poison/a:1",
        "operations": ["objects.get"],
        "do": "http",
        "code": 403,
        "message": "Mine.",
    }
    cloud.faults(storage={"rules": [rule | {"times": 2}]})
    for _ in range(2):
        with pytest.raises(exceptions.Forbidden, match="Mine"):
            bucket.blob("poison/a:1").download_as_bytes()
        assert bucket.blob("fine").download_as_bytes() == b"x"
    assert bucket.blob("poison/a:1").download_as_bytes() == b"x"
    counted = cloud.counters()["storage"]
    assert counted["faults"] == 2
    assert counted["by_status"]["403"] == 2
    assert counted["by_operation"]["objects.get"] == 5


def test_upload_fault_matches_the_object_name(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    cloud.faults(storage={"rules": [{"match": "bad.txt", "code": 503, "times": 1, "retry_after": 0}]})
    bucket.blob("good.txt").upload_from_string(b"x", retry=None)
    with pytest.raises(exceptions.ServiceUnavailable):
        bucket.blob("bad.txt").upload_from_string(b"x", retry=None)
    bucket.blob("bad.txt").upload_from_string(b"x", retry=None)


def test_object_store_survives_a_restart(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    store.create_bucket("kept")
    written = store.write("kept", "a/b:c.bin", b"data", "image/png", if_generation_match=0)
    again = ObjectStore(tmp_path).read("kept", "a/b:c.bin")
    assert again == written
    assert again is not None
    assert (again.data, again.content_type, again.uri) == (b"data", "image/png", "gs://kept/a/b:c.bin")
    assert [stored.name for stored in ObjectStore(tmp_path).list("kept", "a/")] == ["a/b:c.bin"]
    assert ObjectStore(tmp_path).read("kept", "other") is None
    assert ObjectStore(tmp_path).read("no-bucket", "other") is None
