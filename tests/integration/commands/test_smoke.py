"""The smoke test of ``make test-gcp`` on the local cloud, and ``make`` without a project."""

import subprocess

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from support.documents import NOT_UNDER_MAKE
from support.jobs import PHOTOS
from support.paths import ROOT
from support.smoke import BUCKET, IMAGES, smoke, work_directory

from imagebeam.emulators.cloud import LocalCloud


@pytest.mark.long
def test_smoke_test_passes_on_the_local_cloud_and_cleans_up(cloud: LocalCloud) -> None:
    client = storage.Client()
    samples = client.create_bucket(BUCKET)
    for name, photo in zip(IMAGES, PHOTOS, strict=False):
        samples.blob(name).upload_from_filename(str(photo))
    bucket = client.create_bucket("smoke-work").name
    before = {dataset.dataset_id for dataset in bigquery.Client().list_datasets()}
    with work_directory(cloud.project, bucket) as place:
        smoke(cloud.project, place)
        assert list(client.list_blobs(bucket))
    assert not list(client.list_blobs(bucket))
    assert {dataset.dataset_id for dataset in bigquery.Client().list_datasets()} == before
    calls = cloud.counters()["vertex"]["per_uri"]
    assert sorted(calls.values()) == [1] * 6  # by address to be classified, by content to be embedded


def test_make_without_a_project_prints_what_to_set() -> None:
    environ = {name: value for name, value in NOT_UNDER_MAKE.items() if not name.startswith("IMAGEBEAM_GCP")}
    done = subprocess.run(
        ["make", "--no-print-directory", "test-gcp"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    (said,) = done.stdout.splitlines()
    assert said.startswith("skipped: export IMAGEBEAM_GCP_PROJECT")


def test_default_tests_use_no_real_project() -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'testpaths = ["tests"]' in config
    assert not list((ROOT / "tests").rglob("*gcp*"))
