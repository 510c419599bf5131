"""`imagebeam batch run`: one job on requests that the user already has, created once, whose output stays in place."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from support.batch_local import jsonl, line_of, request_of
from support.jobs import run_cli
from support.marks import long_except
from support.vertex_local import picture

from imagebeam.emulators.cloud import LocalCloud

MODEL, REGION = "gemini-2.5-flash", "us-central1"


@dataclasses.dataclass(frozen=True)
class Requests:
    """Requests about three images, of which one does not exist, as a file and as a table, and places for answers."""

    cloud: LocalCloud
    bucket: str
    dataset: str
    uris: Sequence[str]

    @property
    def file(self) -> str:
        return f"gs://{self.bucket}/requests.jsonl"

    @property
    def table(self) -> str:
        return f"bq://{self.cloud.project}.{self.dataset}.requests"

    def place(self, kind: str) -> str:
        """Return a place for answers that does not exist yet."""
        name = f"answers_{secrets.token_hex(4)}"
        return f"gs://{self.bucket}/{name}" if kind == "gs" else f"bq://{self.cloud.project}.{self.dataset}.{name}"

    def command(self, source: str, output: str, *more: str) -> list[str]:
        given = {argument.partition("=")[0] for argument in more}
        flags = [
            f"--model={MODEL}",
            f"--location={REGION}",
            f"--input={source}",
            f"--output={output}",
            f"--work_dir=gs://{self.bucket}/runs",
            "--batch_poll_s=0.1",
            "--batch_grace_s=0.2",
        ]
        return ["batch", "run", *(flag for flag in flags if flag.partition("=")[0] not in given), *more]

    def manage(self, name: str, *more: str) -> tuple[int, str, str]:
        poll = ("--batch_poll_s=0.1",) if name in {"collect", "cancel"} else ()
        return run_cli(["batch", name, f"--work_dir=gs://{self.bucket}/runs", *poll, *more])

    def created(self) -> dict[str, int]:
        return dict(self.cloud.counters().get("batch", {}).get("created", {}))

    def fault(self, *jobs: Mapping[str, Any], **more: Any) -> None:
        self.cloud.faults(batch={"jobs": list(jobs), **more})


@pytest.fixture(scope="module")
def own(cloud: LocalCloud) -> Requests:
    name = f"own-{secrets.token_hex(4)}"
    bucket = storage.Client().create_bucket(name)
    uris = [f"gs://{name}/images/{number}.jpg" for number in range(3)]
    for uri in uris[:2]:
        storage.Blob.from_uri(uri, client=storage.Client()).upload_from_string(picture(), content_type="image/jpeg")
    lines = [line_of(f"k-{number}", uri) for number, uri in enumerate(uris)]
    bucket.blob("requests.jsonl").upload_from_string(jsonl(lines))
    client = bigquery.Client(project=cloud.project)
    dataset = bigquery.Dataset(f"{cloud.project}.{name.replace('-', '_')}")
    dataset.location = REGION
    client.create_dataset(dataset)
    fields = [bigquery.SchemaField("custom_id", "STRING"), bigquery.SchemaField("request", "JSON")]
    rows = [{"custom_id": f"k-{number}", "request": request_of(uri)} for number, uri in enumerate(uris)]
    table = bigquery.Table(f"{cloud.project}.{dataset.dataset_id}.requests", schema=fields)
    client.load_table_from_json(rows, table, job_config=bigquery.LoadJobConfig(schema=fields)).result()
    return Requests(cloud, name, dataset.dataset_id, uris)


def run_json(own: Requests, command: Sequence[str]) -> dict[str, Any]:
    code, out, err = run_cli([*command, "--json"])
    assert out.strip().startswith("{"), (code, err)
    return {**json.loads(out), "exit_code": code}


def rows_at(own: Requests, output: str) -> int:
    """Return the number of answers at the place where the user wants them."""
    if output.startswith("bq://"):
        client = bigquery.Client()
        return len(list(client.list_rows(output.removeprefix("bq://"))))
    prefix = output.removeprefix(f"gs://{own.bucket}/")
    blobs = storage.Client().list_blobs(own.bucket, prefix=f"{prefix}/", match_glob="**/predictions.jsonl")
    return sum(len(blob.download_as_bytes().splitlines()) for blob in blobs)


@pytest.mark.parametrize("output", ["gs", "bq"])
@pytest.mark.parametrize("source", ["gs", "bq"])
def test_runs_every_combination_of_input_and_output(own: Requests, source: str, output: str) -> None:
    place = own.place(output)
    summary = run_json(own, own.command(own.file if source == "gs" else own.table, place))
    assert (summary["exit_code"], summary["state"], summary["problems"]) == (0, "JOB_STATE_SUCCEEDED", [])
    assert (summary["rows"], summary["ok"], summary["failed"]) == (3, 2, {"IMAGE_ERROR/NOT_FOUND": 1})
    assert summary["output"].startswith(place)
    assert rows_at(own, place) == 3
    assert summary["usage"]["prompt_tokens"] > 0
    assert float(summary["cost_usd"]) > 0
    (error,) = summary["errors"]
    assert (error["row"], error["reason"]) == ("k-2", "IMAGE_ERROR/NOT_FOUND")
    assert list(own.created().values()) == [1]


def test_the_same_command_continues_its_run(own: Requests) -> None:
    command = own.command(own.file, own.place("gs"), "--display_name=my own name")
    own.fault({"stuck": "PENDING"})
    code, out, err = run_cli([*command, "--no_wait"])
    assert (code, out) == (0, ""), err
    assert "my own name  waiting" in err
    assert "submitted; `imagebeam batch collect" in err
    (job,) = own.cloud.batch_jobs()
    assert job["displayName"] == "my own name"
    code, out, err = own.manage("status")
    assert (code, job["name"] in out, own.file in out) == (0, True, True), out
    own.fault()
    code, out, err = run_cli(command)
    assert code == 0, err
    assert "its job is not created again" in err
    assert "3: 2 OK, 1 failed" in out
    assert "at list price" in out
    assert "gs://" in out
    assert f"{job['name']}  JOB_STATE_SUCCEEDED" in out
    code, again, _ = run_cli(command)
    assert (code, again) == (0, out), "an ended run prints its report again"
    assert own.created() == {"my own name": 1}


def test_a_changed_input_or_a_failed_job_starts_another_run(own: Requests) -> None:
    blob = storage.Client().bucket(own.bucket).blob("changing.jsonl")
    blob.upload_from_string(jsonl([line_of("k-0", own.uris[0])]))
    command = own.command(f"gs://{own.bucket}/changing.jsonl", own.place("gs"))
    own.fault({"end": "FAILED"})
    code, out, _ = run_cli(command)
    assert (code, "the job did not succeed: code 13: INTERNAL" in out) == (3, True), out
    own.fault()
    assert run_cli(command)[0] == 0
    assert len(own.created()) == 2
    blob.upload_from_string(jsonl([line_of("k-1", own.uris[1])]))
    assert run_cli(command)[0] == 0
    assert list(own.created().values()) == [1, 1, 1]


def test_creates_the_job_once_after_a_lost_response(own: Requests) -> None:
    command = own.command(own.file, own.place("gs"), "--batch_grace_s=30")
    own.fault({"unlisted_s": 0.5}, calls=[{"do": "lost_answer", "times": 1}])
    code, out, err = run_cli(command)
    assert (code, "2 OK" in out) == (0, True), err
    assert "waiting for it to appear" in err
    assert list(own.created().values()) == [1]


def test_creates_the_job_after_a_refusal(own: Requests) -> None:
    own.fault(calls=[{"do": "http", "code": 429, "times": 1}])
    code, out, err = run_cli(own.command(own.file, own.place("gs")))
    assert (code, "2 OK" in out, "refused" in err) == (0, True, True), err
    assert list(own.created().values()) == [1]


def test_cancels_lists_and_deletes(own: Requests) -> None:
    own.fault({"stuck": "RUNNING", "finished": 1.0})
    name = f"run-{secrets.token_hex(3)}"
    assert run_cli(own.command(own.file, own.place("gs"), f"--run_id={name}", "--no_wait"))[0] == 0
    code, _, err = own.manage("delete", f"--run_id={name}")
    assert (code, "has not ended" in err) == (2, True), err
    code, out, err = own.manage("cancel", f"--run_id={name}")
    assert (code, "the job was canceled; finished rows are kept and billed" in out) == (0, True), (out, err)
    code, out, _ = own.manage("list", "--json")
    listed = {run["run_id"]: run for run in json.loads(out)}
    assert (code, listed[name]["kind"], listed[name]["state"]) == (0, "input", "cancelled")
    code, _, err = own.manage("cancel", f"--run_id={name}")
    assert (code, "has already ended" in err) == (2, True)
    assert own.manage("delete", f"--run_id={name}")[1] == f"run {name}: deleted 1 jobs\n"
    assert own.cloud.batch_jobs() == []
    assert name in own.manage("list")[1]
    assert "deleted 0 jobs and" in own.manage("delete", f"--run_id={name}", "--files")[1]
    assert name not in own.manage("list")[1]


def test_cancels_before_the_job_exists(own: Requests) -> None:
    name = f"run-{secrets.token_hex(3)}"
    own.fault(calls=[{"do": "http", "code": 429}])
    code, _, err = run_cli(own.command(own.file, own.place("gs"), f"--run_id={name}", "--no_wait"))
    assert (code, "refused" in err) == (0, True), err
    assert own.manage("cancel", f"--run_id={name}")[0] == 0
    own.fault()
    assert own.manage("collect", f"--run_id={name}")[0] == 130
    assert own.created() == {}


def test_exits_with_5_if_no_row_has_an_answer(own: Requests) -> None:
    blob = storage.Client().bucket(own.bucket).blob("missing.jsonl")
    blob.upload_from_string(jsonl([line_of("k-2", own.uris[2])]))
    code, out, _ = run_cli(own.command(f"gs://{own.bucket}/missing.jsonl", own.place("bq")))
    assert (code, "no row has an answer" in out) == (5, True), out
    assert "k-2: " in out


def test_a_tuned_model_runs_with_the_price_of_another(own: Requests) -> None:
    endpoint = f"projects/{own.cloud.project}/locations/{REGION}/endpoints/4711"
    summary = run_json(own, own.command(own.file, own.place("gs"), f"--model={endpoint}"))
    assert (summary["exit_code"], summary["ok"], summary["cost_usd"]) == (0, 2, None)
    (job,) = own.cloud.batch_jobs()
    assert job["model"].endswith("/models/8150@2"), "jobs take the model of an endpoint"
    priced = own.command(own.file, own.place("gs"), f"--model={endpoint}", f"--price_as={MODEL}")
    assert float(run_json(own, priced)["cost_usd"]) > 0


BAD = {
    "a missing object": ("--input=gs://{bucket}/none.jsonl", "the object does not exist"),
    "a missing bucket": ("--input=gs://no-such-bucket-here/x.jsonl", "the object does not exist"),
    "a directory": ("--input=gs://{bucket}/images/", "is not a file"),
    "two inputs": ("--input=gs://{bucket}/requests.jsonl,bq://a.b.c", "takes one gs://"),
    "another format": ("--input=gs://{bucket}/table.csv", "line 1 is not JSON"),
    "lines of another format": ("--input=gs://{bucket}/prompts.jsonl", "line 2 has no request"),
    "an empty file": ("--input=gs://{bucket}/empty.jsonl", "is empty"),
    "a missing table": ("--input=bq://{project}.{dataset}.none", "the table does not exist"),
    "a table without requests": ("--input=bq://{project}.{dataset}.plain", "has no column request"),
    "a view": ("--input=bq://{project}.{dataset}.seen", "batch jobs read tables only"),
    "a multi-region": ("--input=bq://{project}.{dataset}_us.requests", "multi-region US"),
    "no table": ("--input=bq://{dataset}", "is not a table"),
    "tables at global": ("--location=global", "batch jobs at global use files only"),
    "another region": ("--location=europe-west4", "they must be in the same region"),
    "a model of another place": ("--model=gemini-3.5-flash-lite", "is not available in us-central1"),
    "a missing dataset": ("--output=bq://{project}.no_such_dataset.x", "bq mk --location=REGION"),
    "a table with rows": ("--output=bq://{project}.{dataset}.requests", "has 3 rows"),
    "a missing output bucket": ("--output=gs://no-such-bucket-here/x", "does not exist"),
    "a model in another location": (
        "--model=projects/p/locations/europe-west4/models/1",
        "is in europe-west4: leave it out",
    ),
}


@pytest.fixture(scope="module")
def bad_inputs(own: Requests) -> Requests:
    bucket = storage.Client().bucket(own.bucket)
    for name, text in {
        "table.csv": "uri,prompt\na,b\n",
        "prompts.jsonl": '{"request": {"contents": []}}\n{"prompt": "x"}\n',
        "empty.jsonl": "",
    }.items():
        bucket.blob(name).upload_from_string(text)
    client = bigquery.Client()
    uris = [bigquery.SchemaField("uri", "STRING")]
    client.create_table(bigquery.Table(f"{client.project}.{own.dataset}.plain", schema=uris))
    view = bigquery.Table(f"{client.project}.{own.dataset}.seen")
    view.view_query = f"SELECT * FROM `{client.project}.{own.dataset}.requests`"
    client.create_table(view)
    client.create_dataset(f"{own.dataset}_us")
    fields = [bigquery.SchemaField("request", "JSON")]
    client.create_table(bigquery.Table(f"{client.project}.{own.dataset}_us.requests", schema=fields))
    return own


@pytest.mark.parametrize("problem", long_except(list(BAD)[::4], BAD))
def test_rejects_bad_input_before_anything_is_created(bad_inputs: Requests, problem: str) -> None:
    flag, message = BAD[problem]
    own = bad_inputs
    given = flag.format(bucket=own.bucket, project=own.cloud.project, dataset=own.dataset)
    before = own.manage("list")[1]
    code, out, err = run_cli(own.command(own.table, own.place("gs"), given))
    assert (code, out) == (2, ""), err
    assert message in err
    assert len(err.splitlines()) == 1, err
    assert own.created() == {}
    assert own.manage("list")[1] == before, "no run is left"


def test_rejects_a_job_that_the_service_rejects(own: Requests) -> None:
    own.fault(calls=[{"do": "http", "code": 400, "message": "The model does not support it."}])
    before = own.manage("list")[1]
    code, out, err = run_cli(own.command(own.file, own.place("gs")))
    assert (code, out) == (2, ""), err
    assert "Vertex AI rejects the job: The model does not support it." in err
    assert own.manage("list")[1] == before, "no run is left"


@pytest.mark.parametrize("missing", ["input", "output", "model"])
def test_names_a_missing_flag(missing: str, tmp_path: Path) -> None:
    flags = {"input": "gs://b/x.jsonl", "output": "gs://b/y", "model": MODEL}
    given = [f"--{name}={value}" for name, value in flags.items() if name != missing]
    code, out, err = run_cli(["batch", "run", *given, f"--work_dir={tmp_path}", "--project=my-project"])
    assert (code, out) == (2, "")
    assert f"no {missing}: set --{missing}" in err
