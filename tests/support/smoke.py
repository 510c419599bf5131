"""The smoke test: three public images through the command line, on a real project or the local cloud."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import google.cloud.storage as storage
from google.cloud import bigquery
from support.jobs import run_cli

#: Public images of Google's samples.
BUCKET = "cloud-samples-data"
IMAGES = ("vision/landmark/st_basils.jpeg", "vision/label/wakeupcat.jpg", "vision/ocr/sign.jpg")
#: Budget of each run in US dollars. The cost is less than a tenth of it.
CAP = "0.05"
DIMENSION = 256


def smoke(project: str, work_dir: str) -> None:
    """Classify and embed three images, check the counts, and run again, which makes no calls.

    Args:
        project: Billed project. A dataset is created in it and always deleted at the end.
        work_dir: Work directory of the runs.
    """
    with _dataset(project) as dataset:
        source = f"{dataset}.images"
        rows = [{"observation_id": name, "gcs_uri": f"gs://{BUCKET}/{name}"} for name in IMAGES]
        schema = [bigquery.SchemaField(name, "STRING") for name in ("observation_id", "gcs_uri")]
        config = bigquery.LoadJobConfig(schema=schema)
        bigquery.Client(project).load_table_from_json(rows, f"{project}.{source}", job_config=config).result()
        common = [
            *(f"--project={project}", f"--source={source}", f"--results={dataset}", f"--work_dir={work_dir}"),
            *("--columns=observation_id=observation_id,uri=gcs_uri", f"--max_cost_usd={CAP}", "--limit=3"),
        ]
        classify = ["classify", "--task=describe", *common]
        for command in (classify, ["embed", f"--dimension={DIMENSION}", *common]):
            summary = _summary(command)
            counted = summary["counted"]
            assert (counted["ok"], counted["failed"], summary["problems"]) == (3, {}, []), summary
        # All units of the second run are done: nothing is paid twice.
        again = _summary(classify)["source"]
        assert (again["already_done"], again["remaining"]) == (3, 0), again
        _check_tables(project, dataset)


def _check_tables(project: str, dataset: str) -> None:
    """Check that the tables match the counts."""
    client = bigquery.Client(project)
    outcomes = client.query(
        f"SELECT task, status, COUNT(*) n, SUM(cost_usd) cost FROM {dataset}.outcomes GROUP BY 1, 2"
    )
    found = {(row.task.partition("/")[0], row.status): row for row in outcomes.result()}
    assert {key: row.n for key, row in found.items()} == {("describe", "OK"): 3, ("embed", "OK"): 3}
    assert 0 < sum(row.cost for row in found.values()) < 2 * float(CAP)
    answers = client.query(f"SELECT COUNTIF(text != '') n FROM {dataset}.describe").result()
    lengths = client.query(f"SELECT ARRAY_LENGTH(vector) n FROM {dataset}.embeddings").result()
    assert [row.n for row in answers] == [3]
    assert [row.n for row in lengths] == [DIMENSION] * 3


def _summary(command: list[str]) -> dict[str, Any]:
    code, out, err = run_cli([*command, "--json"])
    assert code == 0, f"exit code {code}: {err}"
    summary: dict[str, Any] = json.loads(out)
    return summary


@contextmanager
def _dataset(project: str) -> Iterator[str]:
    client = bigquery.Client(project)
    name = f"imagebeam_smoke_{secrets.token_hex(4)}"
    dataset = bigquery.Dataset(f"{project}.{name}")
    dataset.location = "US"
    dataset.default_table_expiration_ms = 24 * 3600 * 1000  # in case the deletion fails
    client.create_dataset(dataset)
    try:
        yield name
    finally:
        client.delete_dataset(dataset, delete_contents=True, not_found_ok=True)


@contextmanager
def work_directory(project: str, bucket: str) -> Iterator[str]:
    """Create a directory in a bucket and delete it at the end."""
    prefix = f"imagebeam-smoke-{secrets.token_hex(4)}"
    try:
        yield f"gs://{bucket}/{prefix}"
    finally:
        client = storage.Client(project)
        for blob in client.list_blobs(bucket, prefix=f"{prefix}/"):
            blob.delete()
