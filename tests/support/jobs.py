"""Small sources and whole runs for tests: real photographs, unmodified clients, the real command line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
from google.api_core.exceptions import GoogleAPIError
from google.cloud import bigquery
from support.paths import PHOTO_DIRECTORY

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.cli import main as cli

PHOTOS = sorted(PHOTO_DIRECTORY.glob("*.jpg"))
SCHEMA = [
    bigquery.SchemaField("observation_id", "STRING"),
    bigquery.SchemaField("asset_id", "STRING"),
    bigquery.SchemaField("asset_type", "STRING"),
    bigquery.SchemaField("gcs_uri", "STRING"),
    bigquery.SchemaField("capture_time", "TIMESTAMP"),
    bigquery.SchemaField("heading", "FLOAT64"),
]


@dataclasses.dataclass(frozen=True)
class Job:
    """A source and a results dataset in the shared local cloud."""

    cloud: LocalCloud
    name: str
    directory: Path
    rows: Sequence[Mapping[str, Any]]
    own_results: str = ""

    @property
    def source(self) -> str:
        return f"{self.name}.observations"

    @property
    def results(self) -> str:
        return self.own_results or f"{self.name}_results"

    def uri(self, index: int) -> str:
        return str(self.rows[index]["gcs_uri"])

    def arguments(self, *more: str, task: str = "image_quality") -> list[str]:
        return [
            "classify",
            f"--task={task}",
            f"--source={self.source}",
            f"--results={self.results}",
            f"--work_dir={self.directory / 'runs'}",
            *more,
        ]

    def run(self, *more: str, task: str = "image_quality") -> dict[str, Any]:
        """Run ``imagebeam classify`` in this process; return its summary with ``exit_code`` and ``err``."""
        code, out, err = run_cli(self.arguments("--json", *more, task=task))
        assert out.strip().startswith("{"), f"exit code {code}: {err}"
        summary = json.loads(out)
        return {**summary, "exit_code": code, "err": err}

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run SQL, with ``{results}`` for the results dataset."""
        client = bigquery.Client()
        return [dict(row.items()) for row in client.query(sql.format(results=self.results)).result()]

    def calls(self) -> dict[str, int]:
        """Return the calls per image since the last reset of the counters."""
        return dict(self.cloud.counters().get("vertex", {}).get("per_uri", {}))


def make_job(cloud: LocalCloud, directory: Path, rows: int | Sequence[Mapping[str, Any]], location: str = "US") -> Job:
    """Create a table of observations with images: a number of plain rows, or the given ones.

    A row may have ``data``, the content of its image; with None there is no object.
    """
    name = f"job_{secrets.token_hex(4)}"
    bucket = storage.Client().create_bucket(f"{name.replace('_', '-')}-images")
    if isinstance(rows, int):
        rows = [{} for _ in range(rows)]
    made = []
    photos = [path.read_bytes() for path in PHOTOS]
    for index, row in enumerate(rows):
        row = dict(row)
        data = row.pop("data", photos[index % len(photos)])
        blob = bucket.blob(f"snapshot/v0/o1:{index:032x}:00250082{row.pop('suffix', '.jpg')}")
        if data is not None:
            blob.upload_from_string(data, content_type="image/jpeg")
        made.append(
            {
                "observation_id": f"o1:{index:032x}:00250082",
                "asset_id": f"t1:{index // 3:032x}:ffff01ee",
                "asset_type": "ASSET_CLASS_UTILITY_POLE",
                "gcs_uri": f"gs://{bucket.name}/{blob.name}",
                "capture_time": f"2024-05-{1 + index % 28:02d}T10:00:00Z",
                "heading": float(index % 180),
                **row,
            }
        )
    client = bigquery.Client()
    dataset = bigquery.Dataset(f"{client.project}.{name}")
    dataset.location = location
    client.create_dataset(dataset)
    table = bigquery.Table(f"{client.project}.{name}.observations", schema=SCHEMA)
    client.load_table_from_json(made, table, job_config=bigquery.LoadJobConfig(schema=SCHEMA)).result()
    cloud.reset()
    return Job(cloud, name, directory, made)


def run_cli(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, standard output and standard error."""
    with captured() as (out, err):
        code = cli.main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def start_process(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start the command line in another process, with its output and errors in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "imagebeam.pipeline", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_rows(job: Job, table: str, number: int, process: subprocess.Popen[str]) -> None:
    """Wait until a table of the results dataset has a number of rows, however long the process takes."""
    while True:
        time.sleep(0.5)  # a query costs both processes CPU time
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        with contextlib.suppress(GoogleAPIError):  # the table does not exist yet
            if job.query(f"SELECT COUNT(*) AS n FROM {{results}}.{table}")[0]["n"] >= number:
                return


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and wait for its end."""
    process.kill()
    process.communicate()


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Capture standard output and standard error of a block."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err
