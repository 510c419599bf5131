"""Invalid input is one line and exit code 2, and nothing is called or written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from google.cloud import bigquery
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud


@pytest.fixture(scope="module")
def job(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("bad"), 3)


def refused(job: Job, *arguments: str) -> str:
    """Run a command that must be rejected; return the line that it prints."""
    code, out, err = run_cli(list(arguments))
    lines = [line for line in err.splitlines() if line.startswith("imagebeam: ")]
    assert code == 2, (code, out, err)
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert job.cloud.counters().get("vertex", {}).get("calls", 0) == 0
    datasets = {dataset.dataset_id for dataset in bigquery.Client().list_datasets()}
    assert job.results not in datasets, "nothing may be written"
    return lines[0]


def write_task(directory: Path, text: str) -> str:
    path = directory / "bad.yaml"
    path.write_text(text)
    return f"--task={path}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampel_percent=3"], "sample_percent"),
        (["--sample_percent=0"], "sample_percent"),
        (["--sample_percent=101"], "sample_percent"),
        (["--limit=0"], "limit"),
        (["--limit=many"], "limit"),
        (["--due=old"], "outdated"),
        (["--reprocess=old"], "outdated"),
        (["--task=image_qualty"], "image_quality"),
        (["--task=missing/file.yaml"], "missing/file.yaml"),
        (["--source=nowhere.observations"], "nowhere"),
        (["--profile=pano"], "capture_location"),
        (["--columns=uri=photo_uri"], "photo_uri"),
        (["--where=heading >"], "BigQuery rejects the query"),
        (["--where=1) OR (1=1"], "--where"),
        (["--keep_columns=weather"], "weather"),
        (["--bbox=10,50,5,51"], "bbox"),
        (["--near=47,8,0"], "near"),
        (["--captured_from=2025-02-01", "--captured_until=2025-01-01"], "captured"),
        (["--model=gemini-3.5-flash-lit"], "gemini-3.5-flash-lite"),
        (["--location=us-central1"], "global"),
        (["--lane=flex", "--location=eu"], "global"),
        (["--max_images=3"], "asset"),
        (["--maximum_bytes_billed=1"], "maximum_bytes_billed"),
        (["--unit_deadline_s=5", "--call_timeout_s=10"], "call_timeout_s"),
        (["--in_flight=0"], "in_flight"),
        (["--in_flight=99999"], "in_flight"),
        (["--max_rpm=1", "--direct_num_workers=2"], "max_rpm"),
        (["--max_tpm=100"], "max_tpm"),
        (["--max_tpm=0"], "max_tpm"),
        (["--max_cost_usd=0"], "max_cost_usd"),
        (["--max_cost_usd=0.0001"], "max_cost_usd"),
        (["--max_calls=1", "--direct_num_workers=2"], "max_calls"),
    ],
)
def test_rejects_invalid_flags(job: Job, arguments: list[str], expected: str) -> None:
    given = {argument.partition("=")[0] for argument in arguments}
    base = [argument for argument in job.arguments() if argument.partition("=")[0] not in given]
    assert expected in refused(job, *base, *arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: bad\nprompt: [", "bad.yaml"),
        ("name: bad\npromt: hello\n", "prompt"),
        ("name: bad\nprompt: hello {{heigth}}\n", "heading"),
        ("name: bad\nprompt: hello\nschema: {type: object, properties: {a: {type: [string, 'null']}}}\n", "nullable"),
        ("name: bad\nprompt: hello\nschema: {type: object, properties: {a: {$ref: x}}}\n", "$ref"),
        ("name: bad\nprompt: hello\nschema: {type: object, properties: {_version: {type: string}}}\n", "_version"),
        ("name: outcomes\nprompt: hello\n", "outcomes"),
        ("name: bad\nprompt: hello {{extra.weather}}\n", "--keep_columns=weather"),
    ],
)
def test_rejects_invalid_tasks(job: Job, tmp_path: Path, text: str, expected: str) -> None:
    base = [argument for argument in job.arguments() if not argument.startswith("--task")]
    assert expected in refused(job, *base, write_task(tmp_path, text))


def test_rejects_a_model_that_does_not_exist_at_the_location(job: Job) -> None:
    job.cloud.faults(vertex={"retired_models": ["gemini-3.5-flash-lite"]})
    assert "does not exist at location global" in refused(job, *job.arguments())


def test_rejects_results_in_another_location(job: Job) -> None:
    client = bigquery.Client()
    far = bigquery.Dataset(f"{client.project}.{job.name}_far")
    far.location = "EU"
    client.create_dataset(far)
    base = [argument for argument in job.arguments() if not argument.startswith("--results")]
    assert "EU" in refused(job, *base, f"--results={far.dataset_id}")
    assert "EU" in refused(job, *job.arguments("--results_location=EU"))


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="root may write anywhere")
def test_rejects_a_read_only_work_directory(job: Job) -> None:
    base = [argument for argument in job.arguments() if not argument.startswith("--work_dir")]
    assert "work_dir" in refused(job, *base, "--work_dir=/proc/imagebeam")


def test_an_expensive_run_needs_confirmation(job: Job, tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    from imagebeam.transforms.tasks import catalog

    shipped = Path(catalog.__file__).parent / "data" / "models.yaml"
    models.write_text(shipped.read_text().replace("input: 0.30", "input: 90000"))
    line = refused(job, *job.arguments(f"--models_file={models}"))
    assert "--yes" in line


def test_missing_credentials_print_how_to_log_in(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GOOGLE_") or name.endswith("EMULATOR_HOST")]:
        monkeypatch.delenv(name)
    for name, value in (("HOME", str(tmp_path)), ("CLOUDSDK_CONFIG", str(tmp_path)), ("NO_GCE_CHECK", "true")):
        monkeypatch.setenv(name, value)
    code, _, err = run_cli([*job.arguments(), "--project=local-project"])
    assert code == 2, err
    assert "gcloud auth application-default login" in err
    assert "Traceback" not in err


def test_rejects_a_second_run_of_a_task(job: Job) -> None:
    from imagebeam.transforms.clients import lease
    from imagebeam.transforms.clients.bigquery import BigQueryClient
    from imagebeam.transforms.core.identifiers import TableName

    client = bigquery.Client()
    client.create_dataset(f"{job.name}_busy")
    bq = BigQueryClient(client.project)
    table = lease.lease_table(TableName(client.project, f"{job.name}_busy", "outcomes"), "image_quality")
    other = lease.Holder("other-run", "ada", "another-host", 1, 1, "2026-11-21T00:00:00+00:00")
    lease.acquire(bq, table, "other-run", me=other)
    base = [argument for argument in job.arguments() if not argument.startswith("--results")]
    line = refused(job, *base, f"--results={job.name}_busy")
    assert "other-run" in line
    assert "ada" in line
