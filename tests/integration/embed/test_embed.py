"""``imagebeam embed``, end to end: the command line, Beam and the clients against the local Google Cloud."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.jobs import Job, kill, make_job, run_cli, start_process, wait_for_rows

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.emulators.sample_data.tables import DATASET
from imagebeam.transforms.core.identifiers import TableName

MULTIMODAL = ("--model=multimodalembedding@001", "--location=us-central1", "--max_rpm=60000")


def arguments(job: Job, *more: str) -> list[str]:
    return [
        "embed",
        f"--source={job.source}",
        f"--results={job.results}",
        f"--work_dir={job.directory / 'runs'}",
        *more,
    ]


def embed(job: Job, *more: str) -> dict[str, Any]:
    """Run ``imagebeam embed`` in this process; give its summary with exit code and standard error."""
    code, out, err = run_cli(arguments(job, "--json", *more))
    assert out.strip().startswith("{"), f"exit code {code}: {err}"
    return {**json.loads(out), "exit_code": code, "err": err}


@pytest.mark.parametrize(
    "models",
    [
        (("multimodalembedding@001", 128), ("gemini-embedding-2", 3072)),
        pytest.param(
            (
                *(("multimodalembedding@001", size) for size in (256, 512, 1408)),
                *(("gemini-embedding-2", size) for size in (1, 512, 768)),
            ),
            marks=pytest.mark.long,
        ),
    ],
)
def test_writes_a_table_for_each_dimension_and_one_view_of_all(
    cloud: LocalCloud, tmp_path: Path, models: tuple[tuple[str, int], ...]
) -> None:
    job = make_job(cloud, tmp_path, 3)
    for model, size in models:
        where = MULTIMODAL if model.startswith("multi") else ()
        summary = embed(job, *where, *(() if size == 3072 else (f"--dimension={size}",)))  # 3072 is the default
        assert (summary["exit_code"], summary["counted"]["ok"]) == (0, 3), summary["err"]
    found = job.query(
        "SELECT model, dimension, ARRAY_LENGTH(vector) AS length, COUNT(*) AS n, COUNT(DISTINCT unit_id) AS units "
        "FROM {results}.embeddings GROUP BY 1, 2, 3"
    )
    assert {(row["model"], row["dimension"]) for row in found} == set(models)
    assert all((row["length"], row["n"], row["units"]) == (row["dimension"], 3, 3) for row in found)


# -- the demo dataset --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, Any]]:
    """A small sample dataset, embedded by both models."""
    build_dataset(cloud.url, cloud.project, units=30)
    job = Job(cloud, "demo_vectors", tmp_path_factory.mktemp("demo"), [])
    summary: dict[str, Any] = {}
    for model in (("--dimension=256",), (*MULTIMODAL, "--dimension=128")):
        base = [argument for argument in arguments(job) if not argument.startswith("--source")]
        code, out, err = run_cli([*base, "--json", f"--source={DATASET}.latest_observations", *model])
        assert code == 0, err
        summary[model[-1]] = json.loads(out)
    return job, summary


@pytest.mark.parametrize("asked", ["--dimension=256", "--dimension=128"])
def test_records_why_an_image_has_no_vector(demo: tuple[Job, dict[str, Any]], asked: str) -> None:
    counted = demo[1][asked]["counted"]
    assert counted["ok"] == 26
    assert counted["failed"] == {"IMAGE_ERROR/NO_URI": 2, "IMAGE_ERROR/NOT_FOUND": 1, "IMAGE_ERROR/UNREADABLE": 1}


def test_vectors_have_the_columns_of_search_filters(demo: tuple[Job, dict[str, Any]]) -> None:
    rows = demo[0].query(
        "SELECT *, ST_X(position) AS x, ST_Y(position) AS y FROM {results}.embeddings_gemini_embedding_2_256"
    )
    source = demo[0].query(f"SELECT * FROM {DATASET}.latest_observations")
    by_id = {row["observation_id"]: row for row in source}
    for row in rows:
        known = by_id[row["observation_id"]]
        assert row["unit_id"] == row["observation_id"]
        assert row["uri"] == known["gcs_uri"]
        for name in ("asset_id", "asset_type", "snapshot_id", "capture_time", "map_url"):
            assert row[name] == known[name], name
        assert (row["y"], row["x"]) == (known["location"]["latitude"], known["location"]["longitude"])
        assert all(math.isfinite(value) for value in row["vector"])


# -- failures ----------------------------------------------------------------------------------------------


def test_sends_bytes_when_the_model_cannot_read_the_images(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    rules = [{"method": "embedContent", "match": "gs://", "do": "http", "code": 403}]
    cloud.faults(vertex={"rules": rules})
    summary = embed(job, "--dimension=8")
    assert summary["counted"]["ok"] == 4, summary["err"]
    assert sum(name.startswith("inline:") for name in job.calls()) == 4


@pytest.mark.long
def test_a_failed_probe_does_not_decide_the_transport(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    cloud.faults(vertex={"rules": [{"method": "embedContent", "match": "gs://", "times": 1, "do": "reset"}]})
    summary = embed(job, "--dimension=8")
    assert summary["counted"]["ok"] == 2, summary["err"]


@pytest.mark.long
def test_crops_and_scales_images(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    versions = []
    for flags in ((), ("--max_side=64",), ("--crop=bbox", "--padding=0.1")):
        summary = embed(job, "--dimension=8", "--reprocess=outdated", *flags)
        assert summary["counted"]["ok"] == 3, summary["err"]
        versions.append(summary["version"])
        newest = job.query("SELECT unit_id, version FROM {results}.embeddings")
        assert [row["version"] for row in newest] == [summary["version"]] * 3, "one vector per unit, the newest"
    assert len(set(versions)) == 3


@pytest.mark.long
def test_waits_for_quota(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 40)
    cloud.faults(vertex={"quota": {"requests_per_minute": 300, "burst": 1}})
    summary = embed(job, "--dimension=128", *MULTIMODAL)
    assert summary["counted"]["ok"] == 40, summary["err"]
    assert summary["counted"]["throttled"] > 0
    assert all(row["attempts"] == 1 for row in job.query("SELECT attempts FROM {results}.outcomes"))


def test_retries_transient_errors_and_records_permanent_ones(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    rules: list[dict[str, Any]] = [
        {"match": job.uri(0), "times": 1, "do": "http", "code": 503},
        {"match": job.uri(1), "times": 1, "do": "garbage"},
        {"match": job.uri(2), "times": 1, "do": "reset"},
        {"match": job.uri(3), "do": "http", "code": 500},
        {"match": job.uri(4), "do": "http", "code": 400, "message": "Request contains an invalid argument."},
    ]
    cloud.faults(vertex={"rules": [{"method": "embedContent", **rule} for rule in rules]})
    summary = embed(job, "--dimension=8", "--transport=uri", "--unit_deadline_s=4", "--call_timeout_s=4")
    assert summary["counted"]["ok"] == 4, summary["err"]
    assert summary["counted"]["failed"] == {"UNAVAILABLE/HTTP_500": 1, "BAD_REQUEST/INVALID_ARGUMENT": 1}


@pytest.mark.long
def test_a_disabled_api_stops_the_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    cloud.faults(vertex={"rules": [{"method": "embedContent", "do": "http", "code": 401, "message": "no"}]})
    summary = embed(job, "--dimension=8", "--transport=uri")
    assert (summary["exit_code"], summary["counted"]["skipped"]) == (3, 4)


def test_never_exceeds_max_calls(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 12)
    summary = embed(job, "--dimension=8", "--max_calls=5")
    assert summary["exit_code"] == 4, summary["err"]
    assert cloud.counters()["vertex"]["by_method"]["embedContent"] == 5
    assert (summary["counted"]["ok"], summary["counted"]["skipped"]) == (5, 7)


@pytest.mark.parametrize(
    ("model", "price"), [((), "0.0001161"), pytest.param(MULTIMODAL, "0.0001", marks=pytest.mark.long)]
)
def test_never_exceeds_max_cost(cloud: LocalCloud, tmp_path: Path, model: tuple[str, ...], price: str) -> None:
    job = make_job(cloud, tmp_path, 12)
    summary = embed(job, "--dimension=128", "--max_cost_usd=0.001", *model)
    assert summary["exit_code"] == 4, summary["err"]
    spent = Decimal(summary["recorded"]["cost_usd"])
    assert spent == summary["counted"]["ok"] * Decimal(price)
    assert Decimal("0.0007") < spent <= Decimal("0.001")


# -- durability --------------------------------------------------------------------------------------------


def test_survives_failing_inserts(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 8)
    cloud.faults(bigquery={"insert_failures": [{"match": job.rows[4]["observation_id"], "times": 3, "do": "http_503"}]})
    summary = embed(job, "--dimension=8", "--transport=uri")
    assert summary["counted"]["ok"] == 8, summary["err"]
    assert set(job.calls().values()) == {1}


def test_a_rejected_vector_is_not_ok(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 4)
    unit = job.rows[2]["observation_id"]
    # A row of its vector, and of no outcome: those have observation_ids.
    cloud.faults(bigquery={"insert_failures": [{"match": f'"observation_id":"{unit}"', "do": "row_error"}]})
    summary = embed(job, "--dimension=8")
    assert summary["counted"]["failed"] == {"INVALID_ANSWER/ROW_REJECTED": 1}, summary["err"]
    assert unit not in {row["unit_id"] for row in job.query("SELECT unit_id FROM {results}.embeddings")}


@pytest.mark.long
def test_run_after_a_kill_repeats_no_recorded_vector(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"suffix": ".jpg" if index < 16 else ".slow.jpg"} for index in range(24)])
    cloud.faults(vertex={"rules": [{"method": "embedContent", "match": ".slow.", "do": "slow", "seconds": 3600}]})
    process = start_process(arguments(job, "--dimension=8", "--transport=uri", "--in_flight=24"))
    wait_for_rows(job, "outcomes", 16, process)
    kill(process)
    before = job.calls()
    cloud.faults(vertex={})
    summary = embed(job, "--dimension=8", "--transport=uri")
    assert (summary["exit_code"], summary["source"]["already_done"]) == (0, 16), summary["err"]
    calls = job.calls()
    assert all(calls[job.uri(index)] == before[job.uri(index)] == 1 for index in range(16))
    found = job.query("SELECT COUNT(*) AS n, COUNT(DISTINCT unit_id) AS units FROM {results}.embeddings")
    assert found == [{"n": 24, "units": 24}]


@pytest.mark.long
def test_no_ok_outcome_lacks_its_vector(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    # Only rows of outcomes have a lane: vectors go in, outcomes do not.
    cloud.faults(bigquery={"insert_failures": [{"match": "latency_ms", "do": "http_503"}]})
    table = "embeddings_gemini_embedding_2_8"
    process = start_process(arguments(job, "--dimension=8", "--transport=uri"))
    wait_for_rows(job, table, 1, process)
    kill(process)
    early = job.query(f"SELECT COUNT(*) AS n FROM {{results}}.{table}")[0]["n"]
    assert job.query("SELECT unit_id FROM {results}.outcomes") == []
    cloud.faults(bigquery={})
    summary = embed(job, "--dimension=8", "--transport=uri")
    assert summary["counted"]["ok"] == 6, summary["err"]
    assert job.query(f"SELECT COUNT(*) AS n FROM {{results}}.{table}")[0]["n"] == early + 6
    found = job.query("SELECT unit_id, run_id FROM {results}.embeddings")
    assert [row["run_id"] for row in found] == [summary["run_id"]] * 6


# -- the index ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_creates_the_vector_index_once_after_the_run(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    asked = ("--model=multimodalembedding@001", "--location=us-central1", "--dimension=512", "--vector_index")
    for _ in range(2):
        assert embed(job, *asked)["exit_code"] == 0
    shown = job.query("SELECT index_name, table_name FROM {results}.INFORMATION_SCHEMA.VECTOR_INDEXES")
    table = "embeddings_multimodalembedding_001_512"
    assert shown == [{"index_name": f"{table}_index", "table_name": table}]


@pytest.mark.long
def test_a_stopped_run_prints_how_to_create_the_index(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    code, _, err = run_cli(arguments(job, "--dimension=8", "--vector_index", "--max_calls=1"))
    assert code == 4
    assert "create it later with: CREATE VECTOR INDEX IF NOT EXISTS" in err


# -- invalid input------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("bad"), 3)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dimension=3073"], "1 to 3072"),
        (["--dimension=0"], "--dimension"),
        (["--dimension=many"], "--dimension"),
        (["--model=multimodalembedding@001", "--dimension=768"], "128, 256, 512 or 1408"),
        (["--model=gemini-3.5-flash-lite"], "gemini-embedding-2"),
        (["--model=multimodalembedding@001"], "--location=us-central1"),
        (["--location=us-central1"], "--location=global"),
        (["--lane=flex"], "online"),
        (["--unit=asset"], "observation"),
        (["--task=image_quality"], "--task"),
        (["--transport=uri", "--max_side=64"], "--transport=inline"),
        (["--padding=0.1"], "--crop=bbox"),
        (["--max_cost_usd=0.0001"], "0.000116"),
        (["--due=old"], "outdated"),
        (["--reprocess=old"], "outdated"),
        (["--source=nowhere.observations"], "nowhere"),
        (["--results=a b"], "--results"),
        (["--maximum_bytes_billed=1"], "maximum_bytes_billed"),
        (["--dimensoin=8"], "--dimension"),
    ],
)
def test_rejects_invalid_flags_in_one_line_without_calls(bad: Job, flags: list[str], says: str) -> None:
    given = {flag.partition("=")[0] for flag in flags}
    base = [argument for argument in arguments(bad) if argument.partition("=")[0] not in given]
    code, out, err = run_cli([*base, *flags])
    told = [line for line in err.splitlines() if line.startswith("imagebeam: ")]
    assert (code, len(told)) == (2, 1), (out, err)
    assert says in told[0]
    assert "Traceback" not in err
    assert bad.cloud.counters().get("vertex", {}).get("calls", 0) == 0


def test_reports_a_retired_model_in_one_line(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 1)
    cloud.faults(vertex={"retired_models": ["gemini-embedding-2"]})
    code, _, err = run_cli(arguments(job))
    assert code == 2
    assert "model gemini-embedding-2 does not exist at location global" in err.splitlines()[-1]


@pytest.mark.long
def test_rejects_a_concurrent_run_of_the_same_model_and_length(cloud: LocalCloud, tmp_path: Path) -> None:
    from imagebeam.transforms.clients import lease
    from imagebeam.transforms.clients.bigquery import BigQueryClient

    job = make_job(cloud, tmp_path, 1)
    embed(job, "--dimension=8")
    table = lease.lease_table(TableName(cloud.project, job.results, "outcomes"), "embed/gemini-embedding-2/8")
    other = lease.Holder("other-run", "ada", "another-host", 1, 1, "2026-11-21T00:00:00+00:00")
    lease.acquire(BigQueryClient(cloud.project), table, "other-run", me=other)
    code, _, err = run_cli(arguments(job, "--dimension=8"))
    assert (code, "ada on another-host" in err) == (2, True)
    assert embed(job, "--dimension=16")["exit_code"] == 0, "another length is another task"


@pytest.mark.long
def test_reads_the_config_file_of_classify(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(cloud, tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagebeam.yaml").write_text(
        f"task: image_quality\nmodel: gemini-3.5-flash\nunit: asset\nlane: flex\nsource: {job.source}\n"
        f"results: {job.results}\n"
    )
    code, out, err = run_cli(["embed", "--dimension=8"])
    assert code == 0, err
    assert "2 OK" in out
    assert f"{job.results}.embeddings_gemini_embedding_2_8" in out


def test_help_describes_dimensions_and_fixed_quotas() -> None:
    code, out, _ = run_cli(["embed", "--help"])
    assert code == 0
    told = " ".join(out.split())
    for words in ("--dimension=N", "128, 256, 512 or 1408", "its published quota, 600, or 120 in Europe"):
        assert words in told
