"""Open batch runs that the previous version wrote are read and finished by this one.

``stored/batch_run_0_1`` holds the objects of two work directories. Each run has six units in three jobs: one job is
collected, two are pending, and one unit has no image URI.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from support.batch_runs import command, summary_of, work_dir
from support.jobs import Job, make_job
from support.marks import long_except
from support.paths import STORED

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.transforms.sql.embedding_tables import EMBEDDINGS
from imagebeam.transforms.sql.tables import TABLES, ResultTable

RUN_0_1 = STORED / "batch_run_0_1"


def restore(cloud: LocalCloud, directory: Path, kind: str) -> tuple[Job, str]:
    """Puts a stored work directory, its source and the rows that it recorded into the cloud; returns the run id."""
    job = make_job(cloud, directory, [{"gcs_uri": None} if index == 4 else {} for index in range(6)])
    bucket = storage.Client().bucket(work_dir(job).removeprefix("gs://").partition("/")[0])
    names = {
        "work_bucket": bucket.name,
        "folder": work_dir(job).rpartition("/")[2],
        "image_bucket": f"{job.name.replace('_', '-')}-images",
        "dataset": job.name,
        "project": cloud.project,
    }
    objects: dict[str, str] = json.loads((RUN_0_1 / f"{kind}.json").read_text())
    for name, text in objects.items():
        for placeholder, value in names.items():
            text = text.replace(f"{{{placeholder}}}", value)
        objects[name] = text
        bucket.blob(name).upload_from_string(text)
    client = bigquery.Client()
    client.create_dataset(job.results)
    for name, made in TABLES.items():
        make_table(client, f"{job.results}.{name}", made, [])
    rows = [
        json.loads(line)
        for name, text in objects.items()
        if name.endswith(("manifest.jsonl", "problems.jsonl", "outcomes.jsonl"))
        for line in text.splitlines()
    ]
    make_table(client, f"{job.results}.outcomes", TABLES["outcomes"], rows)
    vectors = [json.loads(line) for name, text in objects.items() if "vectors" in name for line in text.splitlines()]
    if vectors:
        make_table(client, f"{job.results}.embeddings_gemini_embedding_2_8", EMBEDDINGS, vectors)
    return job, next(iter(objects)).split("/")[2]


def make_table(client: bigquery.Client, name: str, made: ResultTable, rows: list[dict[str, Any]]) -> None:
    table = bigquery.Table(
        f"{client.project}.{name}", [bigquery.SchemaField.from_api_repr(dict(field)) for field in made.schema]
    )
    client.create_table(table, exists_ok=True)
    if rows:
        config = bigquery.LoadJobConfig(schema=table.schema)
        client.load_table_from_json(rows, table, job_config=config).result()


@pytest.mark.parametrize("kind", long_except(["embed"], ["embed", "classify"]))
def test_finishes_a_run_of_the_previous_version(cloud: LocalCloud, tmp_path: Path, kind: str) -> None:
    job, run_id = restore(cloud, tmp_path, kind)

    assert batch_state.list_run_ids(work_dir(job)) == [run_id]
    run = batch_state.load_run(work_dir(job), run_id)
    assert (run.run.run_id, run.batch.rounds, run.batch.limits.lines) == (run_id, 3, 2)
    caps = run.run.engine.caps
    assert caps is not None
    assert (str(caps.max_cost_usd), caps.max_call_usd > 0) == ("5", True)
    prepared = batch_state.load_prepared(run, 1)
    assert prepared is not None
    assert (prepared.source.units_in, prepared.source.callable_units) == (6, 5)
    assert [shard.read for shard in prepared.shards] == [2, 2, 2]

    code, out, err = command(job, "status", "--json")
    assert code == 0, err
    assert [(each["phase"], each["units"]) for each in json.loads(out)[0]["jobs"]] == [
        ("collected", 2),
        ("ended", 2),
        ("ended", 1),
    ]

    # The two pending jobs no longer exist, so their units are submitted again in a second round.
    summary = summary_of(job)
    assert (summary["exit_code"], summary["problems"]) == (0, []), summary["err"]
    assert summary["counted"]["ok"] == 5
    assert summary["counted"]["failed"] == {"IMAGE_ERROR/NO_URI": 1}
    letters = job.query("SELECT COUNT(*) AS units, COUNTIF(status = 'OK') AS ok FROM {results}.dead_letters")
    assert letters == [{"units": 1, "ok": 0}]


def test_refuses_a_run_of_a_newer_version(cloud: LocalCloud, tmp_path: Path) -> None:
    job, run_id = restore(cloud, tmp_path, "classify")
    bucket = storage.Client().bucket(work_dir(job).removeprefix("gs://").partition("/")[0])
    blob = bucket.blob(f"work/runs/{run_id}/batch/run.json")
    blob.upload_from_string(json.dumps({**json.loads(blob.download_as_bytes()), "format": 99}))
    code, _, err = command(job, "status")
    assert code == 2
    assert "a newer version of imagebeam wrote this run" in err
