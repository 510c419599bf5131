"""The smoke test on a real project: ``make test-gcp``. It costs about a cent and cleans up after itself.

It stands outside ``tests/``, whose fixtures hide real credentials; ``make test`` never sees it.
"""

import os
from pathlib import Path

import pytest
from smoke import smoke, work_directory

PROJECT = os.environ.get("IMAGEBEAM_GCP_PROJECT", "")
BUCKET = os.environ.get("IMAGEBEAM_GCP_BUCKET", "").removeprefix("gs://").rstrip("/")
#: With one of these set, clients would talk to a local cloud and prove nothing.
LOCAL = ("BIGQUERY_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "GOOGLE_VERTEX_BASE_URL")


@pytest.mark.skipif(not PROJECT, reason="IMAGEBEAM_GCP_PROJECT names no project")
@pytest.mark.timeout(900)
def test_three_public_images_are_classified_and_embedded(tmp_path: Path) -> None:
    wrong = [name for name in LOCAL if os.environ.get(name)]
    assert not wrong, f"{wrong[0]} is set, so this would be the local cloud: unset it"
    if not BUCKET:
        smoke(PROJECT, str(tmp_path))
        return
    with work_directory(PROJECT, BUCKET) as place:
        smoke(PROJECT, place)
