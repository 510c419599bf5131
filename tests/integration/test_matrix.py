"""Whole runs of every combination of command, lane, unit and transport, on one source.

Each combination runs once for all tests of this module. Every lane must give the units, answers and counts of the
online lane.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.cloud import bigquery
from support.batch_runs import QUICK, work_dir
from support.jobs import Job, make_job, run_cli
from support.marks import long_except

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.embed_sql.staging import StagingTable
from imagebeam.transforms.core.identifiers import TableName

#: Prompt fields reach the request in every lane: the faults of blocked and invalid answers match on them.
TASK = """\
name: seen
prompt: What is it? {{capture_time}} {{heading}} {{asset_type}} {{extra.heading}}
schema:
  type: object
  properties:
    label: {type: string, enum: ['yes', 'no']}
    score: {type: number, minimum: 0, maximum: 1}
  required: [label, score]
"""
FAULTS = {
    "rules": [
        {"match": "TYPE_BLOCKED", "do": "blocked", "reason": "SAFETY"},
        {"match": "TYPE_NOT_JSON", "do": "bad_json"},
        {"match": "TYPE_OFF_SCHEMA", "do": "off_schema"},
    ]
}
#: Three images for each asset. Assets 0 and 1 have valid images and answers.
ROWS: list[dict[str, Any]] = [
    *({} for _ in range(6)),
    *({"asset_type": "TYPE_BLOCKED"} for _ in range(3)),
    *({"asset_type": "TYPE_NOT_JSON"} for _ in range(3)),
    *({"asset_type": "TYPE_OFF_SCHEMA"} for _ in range(3)),
    {"data": None},
    {"data": b"\xff\xd8\xff\xe0 this is not a photograph"},
    {"gcs_uri": None},
    {"gcs_uri": "https://example.com/a.jpg"},
]
#: Rows whose image exists and can be decoded.
READABLE = range(15)
IMAGE_ERRORS = {"IMAGE_ERROR/NOT_FOUND": 1, "IMAGE_ERROR/UNREADABLE": 1, "IMAGE_ERROR/NO_URI": 2}
FAILED = {
    "observation": {"BLOCKED/SAFETY": 3, "INVALID_ANSWER/NOT_JSON": 3, "INVALID_ANSWER/OFF_SCHEMA": 3, **IMAGE_ERRORS},
    "asset": {
        "BLOCKED/SAFETY": 1,
        "INVALID_ANSWER/NOT_JSON": 1,
        "INVALID_ANSWER/OFF_SCHEMA": 1,
        "IMAGE_ERROR/NOT_FOUND": 1,
        "IMAGE_ERROR/NO_URI": 1,
    },
    "embed": IMAGE_ERRORS,
}
TABLE = "embeddings_gemini_embedding_2_8"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination."""

    command: str
    lane: str
    unit: str
    transport: str

    def __str__(self) -> str:
        return f"{self.command}-{self.lane}-{self.unit}-{self.transport}"

    @property
    def reference(self) -> Cell:
        """The combination with the same answers: online, by URI."""
        return dataclasses.replace(self, lane="online", transport="uri")

    def flags(self) -> list[str]:
        own = ["--keep_columns=heading", f"--unit={self.unit}"] if self.command == "classify" else ["--dimension=8"]
        if self.lane == "batch":
            return [*own, "--batch_lines=7", *QUICK]
        if self.lane == "sql":
            return [*own, "--model=gemini-embedding-2", "--pass_pause_s=0"]
        return [*own, f"--transport={self.transport}"]


CLASSIFY = [
    Cell("classify", *values)
    for values in (
        ("online", "observation", "uri"),
        ("online", "observation", "inline"),
        ("online", "asset", "uri"),
        ("online", "asset", "inline"),
        ("flex", "observation", "uri"),
        ("flex", "asset", "inline"),
        ("batch", "observation", "uri"),
        ("batch", "asset", "uri"),
    )
]
EMBED = [
    Cell("embed", lane, "observation", transport)
    for lane, transport in (("online", "uri"), ("online", "inline"), ("batch", "uri"), ("sql", "uri"))
]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, and what the cloud counted in it."""

    job: Job
    summary: dict[str, Any]
    counters: dict[str, Any]

    @property
    def calls(self) -> dict[str, int]:
        """Calls per image, outside batch jobs."""
        return dict(self.counters.get("vertex", {}).get("per_uri", {}))

    @property
    def paid_in_batch(self) -> dict[str, int]:
        """Billed rows of batch jobs per image."""
        return dict(self.counters.get("batch", {}).get("paid_per_uri", {}))

    @property
    def created_jobs(self) -> dict[str, int]:
        """Batch jobs by name, with the number of times that each was created."""
        return dict(self.counters.get("batch", {}).get("created", {}))

    def outcomes(self) -> list[dict[str, Any]]:
        return self.job.query(
            "SELECT unit_id, unit_type, input_digest, status, reason, TO_JSON_STRING(answer) AS answer, asset_id, "
            "asset_type, observation_ids, image_uris, capture_time, latitude, longitude, "
            "JSON_VALUE(extra, '$.heading') AS heading, model FROM {results}.outcomes "
            "WHERE status != 'SUBMITTED' ORDER BY unit_id"
        )

    def spent(self) -> dict[str, Any]:
        (row,) = self.job.query(
            "SELECT SUM(cost_usd) AS usd, SUM(prompt_tokens) AS prompt_tokens, SUM(output_tokens) AS output_tokens "
            "FROM {results}.outcomes WHERE status = 'OK'"
        )
        return row


class Matrix:
    """Runs each combination when its first test needs it."""

    def __init__(self, job: Job, task: Path) -> None:
        self.job, self._task, self._runs = job, task, dict[Cell, Run]()

    def run(self, cell: Cell) -> Run:
        """Return the finished run of a combination."""
        if cell not in self._runs:
            self._runs[cell] = self._start(cell)
        return self._runs[cell]

    def again(self, cell: Cell) -> Run:
        """Run a combination once more."""
        self.run(cell)
        return self._start(cell)

    def _start(self, cell: Cell) -> Run:
        cloud = self.job.cloud
        cloud.reset()
        cloud.faults(vertex=FAULTS)
        job = dataclasses.replace(self.job, own_results=f"{self.job.name}_{str(cell).replace('-', '_')}")
        work = work_dir(job) if cell.lane == "batch" else job.directory / "runs"
        flags = ["--json", f"--lane={cell.lane}", f"--work_dir={work}", *cell.flags()]
        line = job.arguments(*flags, task=str(self._task))
        if cell.command == "embed":
            line = ["embed", *(flag for flag in line[1:] if not flag.startswith("--task="))]
        code, out, err = run_cli(line)
        assert code == 0, err
        counters = cloud.counters()
        cloud.reset()
        return Run(job, json.loads(out), counters)


@pytest.fixture(scope="module")
def matrix(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    directory = tmp_path_factory.mktemp("matrix")
    (directory / "seen.yaml").write_text(TASK)
    return Matrix(make_job(cloud, directory, ROWS), directory / "seen.yaml")


def cells(found: Sequence[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cell", found, ids=str)


@cells([*CLASSIFY, *EMBED])
def test_all_units_are_accounted_for(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    run = matrix.run(cell)
    failed = FAILED["embed" if cell.command == "embed" else cell.unit]
    assert (run.summary["lane"], run.summary["problems"], run.summary["counted"]["failed"]) == (cell.lane, [], failed)
    rows = run.outcomes()
    assert len(rows) == len({row["unit_id"] for row in rows}) == run.summary["source"]["units_in"]
    assert len(rows) == run.summary["counted"]["ok"] + sum(failed.values()) == (7 if cell.unit == "asset" else 19)
    letters = run.job.query("SELECT status, reason FROM {results}.dead_letters")
    assert Counter(f"{row['status']}/{row['reason']}" for row in letters) == failed
    (kept,) = run.job.query("SELECT state, ok, failed FROM {results}.runs_history")
    assert kept == {"state": "DONE", "ok": run.summary["counted"]["ok"], "failed": sum(failed.values())}


@cells([cell for cell in (*CLASSIFY, *EMBED) if cell.lane in ("online", "flex")])
def test_calls_each_image_once(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    run = matrix.run(cell)
    # An answer that does not match the schema is requested once more. Bytes that cannot be read are not sent.
    units = {"observation": 15, "asset": 5}[cell.unit]
    repeated = {"observation": 6, "asset": 2}[cell.unit] if cell.command == "classify" else 0
    broken = {"observation": 2, "asset": 1}[cell.unit] if cell.transport == "uri" else 0
    assert run.counters["vertex"]["calls"] == run.summary["counted"]["calls"] == units + repeated + broken
    if cell.transport == "uri":
        expected = {run.job.uri(index): 1 for index in range(17)}
        if cell.command == "classify":
            expected |= {run.job.uri(index): 2 for index in range(9, 15)}
        assert run.calls == expected
    else:
        assert all(name.startswith("inline:") for name in run.calls)


@cells([cell for cell in (*CLASSIFY, *EMBED) if cell.lane == "batch"])
def test_pays_each_image_once_in_batch_jobs(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    run = matrix.run(cell)
    assert set(run.created_jobs.values()) == {1}
    assert len(run.created_jobs) == {"observation": 3, "asset": 1}[cell.unit]
    assert run.paid_in_batch == {run.job.uri(index): 1 for index in READABLE}
    (row,) = run.job.query("SELECT COUNT(*) AS n FROM {results}.outcomes WHERE status = 'SUBMITTED'")
    assert row["n"] == {"observation": 17, "asset": 6}[cell.unit]


def test_embeds_each_image_once_in_bigquery(cloud: LocalCloud, matrix: Matrix) -> None:
    run = matrix.run(EMBED[-1])
    counted = run.counters["bigquery"]["ai"]
    assert counted["answered_per_key"] == {run.job.uri(index): 1 for index in READABLE}
    assert "vertex" not in run.counters
    tables = bigquery.Client().list_tables(run.job.results)
    staged = [table.table_id for table in tables if StagingTable.read(TableName(cloud.project, "d", table.table_id))]
    assert staged == []


@cells([cell for cell in CLASSIFY if cell != cell.reference])
def test_answers_equal_those_of_the_online_lane(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    run, online = matrix.run(cell), matrix.run(cell.reference)
    assert run.summary["version"] == online.summary["version"]
    assert run.outcomes() == online.outcomes()
    spent, price = run.spent(), online.spent()
    assert {**spent, "usd": spent["usd"] * (1 if cell.lane == "online" else 2)} == price, "flex, batch: half the price"


@cells([cell for cell in EMBED if cell != cell.reference])
def test_vectors_equal_those_of_the_online_lane(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    run, online = matrix.run(cell), matrix.run(cell.reference)
    assert run.summary["version"] == online.summary["version"]
    assert [{**row, "answer": None} for row in run.outcomes()] == [{**row, "answer": None} for row in online.outcomes()]
    columns = (
        "unit_id, observation_id, asset_id, asset_type, uri, latitude, longitude, ST_X(position) AS x, capture_time, "
        "map_url, snapshot_id, model, dimension, version, vector"
    )
    sql = f"SELECT {columns} FROM {{results}}.{TABLE} ORDER BY unit_id"
    rows, expected = run.job.query(sql), online.job.query(sql)
    for row, other in zip(rows, expected, strict=True):
        assert row.pop("vector") == pytest.approx(other.pop("vector"), abs=1e-6)
    assert rows == expected
    assert [row["uri"] for row in rows] == [run.job.uri(index) for index in READABLE]
    price = Decimal(online.summary["counted"]["cost_usd"]) / (2 if cell.lane == "batch" else 1)
    assert abs(Decimal(run.summary["counted"]["cost_usd"]) - price) <= len(rows) * Decimal("1e-9"), "rounded by row"


@cells(CLASSIFY)
def test_view_has_typed_columns(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    run = matrix.run(cell)
    rows = run.job.query("SELECT unit_id, label, score, _version, _run_id FROM {results}.seen ORDER BY 1")
    ids = [row["asset_id" if cell.unit == "asset" else "observation_id"] for row in run.job.rows[:6]]
    assert [row["unit_id"] for row in rows] == list(dict.fromkeys(ids))
    assert {(row["_version"], row["_run_id"]) for row in rows} == {(run.summary["version"], run.summary["run_id"])}
    for row in rows:
        assert row["label"] in ("yes", "no")
        assert 0 <= row["score"] <= 1
    kept = [row["heading"] for row in run.outcomes() if row["status"] == "OK"]
    assert kept == (["2", "5"] if cell.unit == "asset" else [str(number) for number in range(6)])


@cells([cell for cell in CLASSIFY if cell.unit == "asset"])
def test_unit_of_an_asset_has_its_images(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    rows = matrix.run(cell).outcomes()
    assert {row["unit_type"] for row in rows} == {"asset"}
    assert rows[0]["observation_ids"] == [row["observation_id"] for row in matrix.job.rows[:3]]
    assert rows[0]["image_uris"] == [row["gcs_uri"] for row in matrix.job.rows[:3]]
    assert [len(row["image_uris"]) for row in rows] == [3, 3, 3, 3, 3, 2, 1]


def test_lane_and_traffic_type_are_recorded(cloud: LocalCloud, matrix: Matrix) -> None:
    found = set()
    for cell in (CLASSIFY[0], CLASSIFY[4], CLASSIFY[6]):
        sql = "SELECT DISTINCT lane, traffic_type FROM {results}.outcomes WHERE status = 'OK'"
        found |= {(row["lane"], row["traffic_type"]) for row in matrix.run(cell).job.query(sql)}
    assert found == {("online", "ON_DEMAND"), ("flex", "ON_DEMAND_FLEX"), ("batch", "ON_DEMAND")}


#: The query that finds remaining units is the same in all lanes of a command, except for the SQL lane.
SHORT = [CLASSIFY[0], EMBED[-1]]
REPEATED = [cell for cell in (*CLASSIFY, *EMBED) if cell.unit == "observation" and cell.transport == "uri"]


@cells(long_except(SHORT, REPEATED))
def test_second_run_calls_nothing(cloud: LocalCloud, matrix: Matrix, cell: Cell) -> None:
    first, second = matrix.run(cell), matrix.again(cell)
    source = second.summary["source"]
    assert (source["remaining"], second.summary["problems"]) == (0, [])
    assert source["already_done"] == first.summary["counted"]["ok"]
    assert source["failed_before"] == sum(first.summary["counted"]["failed"].values())
    assert second.counters.get("vertex", {}).get("calls", 0) == 0
    assert second.created_jobs == {}
    assert second.counters.get("bigquery", {}).get("ai", {}) == {}
    assert second.outcomes() == first.outcomes()
