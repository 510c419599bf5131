"""Cloud Storage of the local cloud, through Beam's FileSystems and text IO."""

import uuid
from collections.abc import Iterator

import apache_beam as beam
import google.cloud.storage as storage
import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp.gcsio import GcsIO
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from imagebeam.emulators.cloud import LocalCloud


@pytest.fixture
def root(cloud: LocalCloud) -> Iterator[str]:
    made = storage.Client().create_bucket(f"beam-{uuid.uuid4().hex[:12]}")
    yield f"gs://{made.name}"
    made.delete(force=True)


def _write(path: str, data: bytes) -> None:
    with FileSystems.create(path, mime_type="application/octet-stream") as stream:
        stream.write(data)


def _read(path: str) -> bytes:
    with FileSystems.open(path) as stream:
        data: bytes = stream.read()
    return data


def test_beam_creates_opens_and_checksums_files(root: str) -> None:
    _write(f"{root}/in/a:1 b.bin", b"payload")
    assert _read(f"{root}/in/a:1 b.bin") == b"payload"
    assert FileSystems.exists(f"{root}/in/a:1 b.bin")
    assert not FileSystems.exists(f"{root}/in/none")
    assert (
        FileSystems.checksum(f"{root}/in/a:1 b.bin")
        == storage.Client().bucket(root[5:]).get_blob("in/a:1 b.bin").crc32c
    )


def test_beam_matches_copies_renames_and_deletes_files(root: str) -> None:
    for number in range(3):
        _write(f"{root}/in/{number}.txt", b"%d" % number)
    (found,) = FileSystems.match([f"{root}/in/*.txt"])
    assert {(entry.path[-5:], entry.size_in_bytes) for entry in found.metadata_list} == {
        (f"{number}.txt", 1) for number in range(3)
    }
    FileSystems.copy([f"{root}/in/0.txt"], [f"{root}/copy/0.txt"])
    FileSystems.rename([f"{root}/in/1.txt", f"{root}/in/2.txt"], [f"{root}/new/1.txt", f"{root}/new/2.txt"])
    assert _read(f"{root}/copy/0.txt") == b"0"
    assert _read(f"{root}/new/2.txt") == b"2"
    assert not FileSystems.exists(f"{root}/in/2.txt")
    FileSystems.delete([f"{root}/new/1.txt", f"{root}/copy/0.txt"])
    (left,) = FileSystems.match([f"{root}/**"])
    assert sorted(entry.path for entry in left.metadata_list) == [f"{root}/in/0.txt", f"{root}/new/2.txt"]


def test_missing_object_cannot_be_opened_or_renamed(root: str) -> None:
    with pytest.raises(Exception, match="404"):
        _read(f"{root}/none")
    with pytest.raises(BeamIOError):
        FileSystems.rename([f"{root}/none"], [f"{root}/other"])


def test_beam_deletes_files(root: str) -> None:
    assert GcsIO().is_soft_delete_enabled(f"{root}/x") is False


def test_deletes_more_files_than_one_batch_request_allows(root: str) -> None:
    bucket = storage.Client().bucket(root[5:])
    for number in range(120):
        bucket.blob(f"many/{number}").upload_from_string(b"")
    results = GcsIO().delete_batch([f"{root}/many/{number}" for number in range(120)])
    assert {error for _, error in results} == {None}
    assert list(bucket.list_blobs()) == []


def test_writes_and_reads_sharded_text(root: str) -> None:
    lines = [f"line {number} é" for number in range(500)]
    options = PipelineOptions(runner="FnApiRunner")
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(lines) | beam.io.WriteToText(f"{root}/out/lines", ".txt", num_shards=3)
    (shards,) = FileSystems.match([f"{root}/out/*"])
    assert sorted(entry.path.rpartition("/")[2] for entry in shards.metadata_list) == [
        f"lines-0000{number}-of-00003.txt" for number in range(3)
    ]
    with beam.Pipeline(options=options) as pipeline:
        assert_that(pipeline | beam.io.ReadFromText(f"{root}/out/lines*"), equal_to(lines))
