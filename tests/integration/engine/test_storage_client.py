"""The storage client: the same functions for local paths and for gs://."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable
from pathlib import Path

import google.cloud.storage as gcs
import pytest

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.images import ImageError
from imagebeam.transforms.core.records import ImageReason


@pytest.fixture(params=["local", "gs"])
def directory(request: pytest.FixtureRequest, cloud: LocalCloud, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return f"gs://{gcs.Client().create_bucket(f'objects-{secrets.token_hex(4)}').name}/runs"


def test_one_of_many_concurrent_creators_succeeds(directory: str) -> None:
    path = storage.join(directory, "groups", "a")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: storage.create(path, str(number).encode()), range(8)))
    assert won.count(True) == 1
    assert storage.read(path) == str(won.index(True)).encode()


def test_reads_and_replaces_what_was_written(directory: str) -> None:
    path = storage.join(directory, "summary.json")
    assert storage.read(path) is None
    storage.write(path, b"{}")
    storage.write(path, b"{1}")
    assert storage.read(path) == b"{1}"


def test_check_writable_leaves_no_files(directory: str, tmp_path: Path) -> None:
    storage.check_writable(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bucket_is_a_one_line_error(cloud: LocalCloud) -> None:
    with pytest.raises(UserError) as told:
        storage.check_writable("gs://no-such-bucket-here/x", "EU")
    assert str(told.value) == (
        "--work_dir=gs://no-such-bucket-here/x: bucket no-such-bucket-here does not exist; "
        "gcloud storage buckets create gs://no-such-bucket-here --location=EU"
    )


def test_a_forbidden_write_quotes_the_service(cloud: LocalCloud) -> None:
    bucket = gcs.Client().create_bucket(f"objects-{secrets.token_hex(4)}").name
    rule = {"match": bucket, "operations": ["objects.insert"], "do": "http", "code": 403, "message": "Not for you."}
    cloud.faults(storage={"rules": [rule]})
    with pytest.raises(UserError, match=rf"^--work_dir=gs://{bucket} is not writable \(Not for you\.\); use"):
        storage.check_writable(f"gs://{bucket}")


def test_rejects_an_invalid_bucket_name_instead_of_writing_locally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "gs://My-Bucket/x"
    for use in (
        lambda: storage.create(path, b""),
        lambda: storage.write(path, b""),
        lambda: storage.read(path),
        lambda: storage.delete(path),
        lambda: storage.list_names(path),
        lambda: storage.upload(path, tmp_path / "none"),
        lambda: storage.download(path, tmp_path / "none"),
        lambda: storage.check_writable(path),
    ):
        with pytest.raises(UserError, match="is not a Cloud Storage path"):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def image(cloud: LocalCloud) -> Callable[[bytes], str]:
    bucket = gcs.Client().create_bucket(f"images-{secrets.token_hex(4)}")

    def upload(data: bytes) -> str:
        blob = bucket.blob("snapshot/v0/o1:0123:0025.jpg")
        blob.upload_from_string(data)
        return f"gs://{bucket.name}/{blob.name}"

    return upload


def test_reads_all_or_the_first_bytes_of_an_image(image: Callable[[bytes], str]) -> None:
    uri = image(bytes(range(200)))
    assert storage.read_image(uri) == bytes(range(200))
    assert storage.read_image(uri, limit=3) == b"\x00\x01\x02"
    assert storage.read_image(uri, limit=1000) == bytes(range(200))


def test_maps_image_errors_to_reasons(cloud: LocalCloud, image: Callable[[bytes], str]) -> None:
    uri = image(b"")
    cases = {
        None: ImageReason.NO_URI,
        "https://example.com/a.jpg": ImageReason.NO_URI,
        "gs://no-such-bucket-here/a.jpg": ImageReason.NOT_FOUND,
        f"{uri}.missing": ImageReason.NOT_FOUND,
    }
    for address, reason in cases.items():
        with pytest.raises(ImageError) as told:
            storage.read_image(address)
        assert told.value.reason is reason, address
    with pytest.raises(ImageError) as told:
        storage.read_image(uri, limit=64)
    assert told.value.reason is ImageReason.UNREADABLE
    cloud.faults(storage={"rules": [{"match": "0123", "do": "http", "code": 403}]})
    with pytest.raises(ImageError) as told:
        storage.read_image(uri)
    assert told.value.reason is ImageReason.FORBIDDEN
