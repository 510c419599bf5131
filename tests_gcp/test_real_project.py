"""The smoke test on a real project: ``make test-gcp``. Costs about one cent and deletes what it creates.

Not in ``tests/``, whose fixtures hide real credentials. ``make test`` does not run it.
"""

import os
from pathlib import Path

import pytest
from support.smoke import smoke, work_directory

PROJECT = os.environ.get("IMAGEBEAM_GCP_PROJECT", "")
BUCKET = os.environ.get("IMAGEBEAM_GCP_BUCKET", "").removeprefix("gs://").rstrip("/")
#: Variables that would direct clients to a local cloud.
LOCAL = ("BIGQUERY_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "GOOGLE_VERTEX_BASE_URL")


@pytest.mark.skipif(not PROJECT, reason="IMAGEBEAM_GCP_PROJECT is not set")
@pytest.mark.timeout(900)
def test_classifies_and_embeds_three_public_images(tmp_path: Path) -> None:
    wrong = [name for name in LOCAL if os.environ.get(name)]
    assert not wrong, f"{wrong[0]} is set and would direct the test to a local cloud: unset it"
    if not BUCKET:
        smoke(PROJECT, str(tmp_path))
        return
    with work_directory(PROJECT, BUCKET) as place:
        smoke(PROJECT, place)
