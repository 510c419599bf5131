"""Preflight reports each misconfiguration once, with its fix, and nothing on a good setup."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import pytest
from google.cloud import bigquery
from support.batch_runs import work_dir
from support.dataflow_local import IMAGE
from support.insights_schema import ASSET_OBSERVATIONS, SNAPSHOTS
from support.jobs import Job, make_job, run_cli
from support.marks import long_except

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.pipeline.preflight.registry import CHECKS
from imagebeam.pipeline.preflight.runner import Cost, Gate
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.tasks import catalog

ME = "serviceAccount:local@imagebeam-local.iam.gserviceaccount.com"
AGENT = "service-100000000001@gcp-sa-aiplatform.iam.gserviceaccount.com"
WORKER = "100000000001-compute@developer.gserviceaccount.com"


@dataclasses.dataclass(frozen=True)
class Project:
    """A source like Imagery Insights with a snapshot of yesterday, results, a bucket for work, and its models."""

    job: Job
    models: Path

    @property
    def cloud(self) -> LocalCloud:
        return self.job.cloud

    @property
    def images(self) -> str:
        return f"{self.job.name.replace('_', '-')}-images"

    @property
    def work(self) -> str:
        return f"{self.job.name.replace('_', '-')}-work"

    def arguments(self, command: str, *more: str) -> list[str]:
        flags = {
            "task": "image_quality",
            "source": f"{self.job.name}.latest_observations",
            "results": self.job.results,
            "work_dir": f"gs://{self.work}/work",
            "models_file": str(self.models),
        }
        if command == "embed":
            del flags["task"]
        for argument in more:
            name, _, text = argument.removeprefix("--").partition("=")
            flags[name] = text or "true"
        # "-" removes a flag.
        return ["preflight", command, *(f"--{name}={text}" for name, text in flags.items() if text != "-")]

    def dataflow(self) -> tuple[str, ...]:
        return (
            "--runner=DataflowRunner",
            "--region=us-central1",
            f"--sdk_container_image={IMAGE}",
            f"--dataflow_endpoint={self.cloud.url}",
        )

    def snapshot(self, days: float) -> None:
        """Set the age of the snapshot in days."""
        made = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
        config = bigquery.LoadJobConfig(write_disposition="WRITE_TRUNCATE", schema=fields(SNAPSHOTS))
        rows = [{"snapshot_id": "s1", "creation_time": made.isoformat()}]
        client = bigquery.Client()
        client.load_table_from_json(rows, f"{client.project}.{self.job.name}.snapshots", job_config=config).result()


@dataclasses.dataclass(frozen=True)
class Report:
    code: int
    document: Mapping[str, Any]

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        found: list[dict[str, Any]] = self.document["findings"]
        return found

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        return [one for one in self.findings if one["state"] in ("warning", "failure")]


def fields(schema: Sequence[Mapping[str, Any]]) -> list[bigquery.SchemaField]:
    return [bigquery.SchemaField.from_api_repr(dict(one)) for one in schema]


def report(arguments: Sequence[str]) -> Report:
    code, out, err = run_cli([*arguments, "--json"])
    assert out, err
    assert not err
    document = json.loads(out)
    assert document["exit_code"] == code
    return Report(code, document)


@pytest.fixture(scope="module")
def project(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Project:
    directory = tmp_path_factory.mktemp("preflight")
    job = make_job(cloud, directory, 3)
    client = bigquery.Client()
    names = ("observation_id", "asset_id", "asset_type", "gcs_uri", "capture_time")
    rows = [{name: row[name] for name in names} | {"snapshot_id": "s1"} for row in job.rows]
    config = bigquery.LoadJobConfig(schema=fields(ASSET_OBSERVATIONS))
    table = f"{client.project}.{job.name}.latest_observations"
    client.load_table_from_json(rows, table, job_config=config).result()
    client.create_dataset(job.results)
    work_dir(job)
    # No model retires, so that the test does not depend on the date.
    models = directory / "models.yaml"
    shipped = (Path(catalog.__file__).parent / "data" / "models.yaml").read_text()
    models.write_text(re.sub(r"date: 20\d\d", "date: 2999", re.sub(r"warn_from: 20\d\d", "warn_from: 2999", shipped)))
    found = Project(job, models)
    found.snapshot(1)
    return found


# -- good setups --------------------------------------------------------------------------------------------


def state_of() -> tuple[list[str], list[str]]:
    """Every table and every object."""
    client = bigquery.Client()
    tables = [str(table.reference) for one in client.list_datasets() for table in client.list_tables(one.reference)]
    stored = [
        f"{bucket.name}/{blob.name}" for bucket in storage.Client().list_buckets() for blob in bucket.list_blobs()
    ]
    return sorted(tables), sorted(stored)


@pytest.mark.parametrize(
    ("arguments", "paid", "counted", "transport"),
    [
        (("classify",), 2, 0, "uri"),
        pytest.param(("classify", "--no_probe"), 0, 1, "uri", marks=pytest.mark.long),
        pytest.param(
            *(("classify", "--lane=flex", "--unit=asset", "--transport=inline"), 1, 0, "inline"), marks=pytest.mark.long
        ),
        (("classify", "--lane=batch"), 2, 1, "uri"),
        pytest.param(("embed", "--dimension=128"), 2, 0, "uri", marks=pytest.mark.long),
        (("embed", "--lane=sql"), 0, 0, None),
    ],
)
def test_passes_a_good_setup_and_leaves_nothing_behind(
    project: Project, arguments: tuple[str, ...], paid: int, counted: int, transport: str | None
) -> None:
    before = state_of()
    project.cloud.reset()
    found = report(project.arguments(*arguments))
    vertex = project.cloud.counters().get("vertex", {})
    assert [one for one in found.findings if one["state"] != "ok"] == []
    assert found.code == 0
    assert found.document["ready"] is True
    assert found.document["transport"] == transport
    assert (vertex.get("calls", 0), vertex.get("count_tokens_calls", 0)) == (paid, counted)
    assert project.cloud.counters().get("bigquery", {}).get("inserted_rows", 0) == 0, "no outcome, no event"
    assert state_of() == before


def test_reads_the_image_as_the_dataflow_workers_account(project: Project) -> None:
    found = report(project.arguments("classify", *project.dataflow()))
    assert [one for one in found.findings if one["state"] != "ok"] == []
    (sample,) = (one for one in found.findings if one["name"] == "sample image")
    assert sample["found"].endswith(f"as serviceAccount:{WORKER}")
    assert project.cloud.counters()["iam"]["calls"]["generateAccessToken"] == 1
    assert "create" not in project.cloud.counters()["dataflow"]["calls"]


def test_passes_the_demo_dataset(project: Project) -> None:
    build_dataset(project.cloud.url, project.cloud.project, units=12)
    source = "--source=imagery_insights___us.latest_observations"
    for command in (("classify", "--lane=batch"), ("embed", "--no_probe")):
        assert report(project.arguments(*command, source)).messages == []


# -- misconfigurations --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A misconfiguration, the check that must report it, and words that the report must contain.

    ``{…}`` in flags, resources and words are replaced: images and work (buckets), data and results (datasets).
    """

    check: str
    expected: tuple[str, ...]
    flags: tuple[str, ...] = ()
    command: str = ""
    denied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    faults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state: str = "failure"
    code: int = 2

    @property
    def quickest(self) -> tuple[str, ...]:
        """The fastest command that finds it: the SQL lane has the same data checks, and does not call the model."""
        if self.command:
            return (self.command,)
        plain = {"credentials", "BigQuery", "source", "query", "locations", "limits", "results dataset"}
        plain |= {"project roles", "work directory"}
        own_lane = any(flag.startswith(("--lane", "{dataflow}")) for flag in self.flags)
        return ("embed", "--lane=sql") if self.check in plain and not own_lane else ("classify",)


def denied(permission: str, resource: str = "", who: str = "") -> dict[str, str]:
    return {"permission": permission, "resource": resource, "who": who}


def disabled(api: str) -> dict[str, Any]:
    return {"access": {"disabled_apis": [f"{api}.googleapis.com"]}}


GCLOUD = "gcloud projects add-iam-policy-binding imagebeam-local"
BATCH = ("--lane=batch",)
NO_MODEL_CALL = {"method": "generateContent", "do": "http"}

CASES = {
    "a revoked key": Case(
        "credentials", ("gcloud auth application-default login",), faults={"token": {"fail": True}}
    ),
    "BigQuery is disabled": Case(
        "BigQuery",
        ("gcloud services enable bigquery.googleapis.com --project=imagebeam-local",),
        faults=disabled("bigquery"),
    ),
    "no role to run jobs": Case(
        "BigQuery", (GCLOUD, "roles/bigquery.jobUser", ME), denied=denied("bigquery.jobs.create")
    ),
    "a missing table": Case("source", ("bq ls imagebeam-local:{data}",), ("--source={data}.observatons",)),
    "a missing dataset": Case("source", ("subscribe",), ("--source=nowhere.observations",)),
    "no role to see the source": Case(
        "source",
        ("GRANT `roles/bigquery.dataViewer` ON SCHEMA `imagebeam-local`.`{data}`", ME),
        denied=denied("bigquery.tables.get", ":{data}."),
    ),
    "a profile that does not match": Case("source", ("lacks", "capture_location"), ("--profile=pano",)),
    "a missing column": Case("source", ("weather",), ("--keep_columns=weather",)),
    "no role to read the source": Case(
        "query",
        ("bigquery.tables.getData", "GRANT `roles/bigquery.dataViewer` ON SCHEMA `imagebeam-local`.`{data}`"),
        denied=denied("bigquery.tables.getData", ":{data}."),
    ),
    "no role to read what a query reads": Case(
        "source",
        ("bigquery.tables.getData", "GRANT `roles/bigquery.dataViewer` ON SCHEMA `imagebeam-local`.`{data}`"),
        ("--source=-", "--query=SELECT * FROM {data}.observations"),
        denied=denied("bigquery.tables.getData", ":{data}."),
    ),
    "an invalid condition": Case("query", ("rejects the query",), ("--where=heading >",)),
    "a query that reads too much": Case("query", ("--maximum_bytes_billed=",), ("--maximum_bytes_billed=1",)),
    "a shared dataset with restricted egress": Case(
        "shared dataset",
        ("restricts egress", "publisher"),
        ("--no_probe",),
        faults={"bigquery": {"linked": {"{data}": {"source": "publisher.imagery", "restricted": True}}}},
        state="warning",
        code=0,
    ),
    "restricted egress in the SQL lane": Case(
        "shared dataset",
        ("--lane=online",),
        ("--lane=sql",),
        "embed",
        faults={"bigquery": {"linked": {"{data}": {"source": "publisher.imagery", "restricted": True}}}},
    ),
    "results in another location": Case("locations", ("is in EU", "bq mk --location=US"), ("--results={data}_far",)),
    "a rate limit below one call": Case("limits", ("max_tpm",), ("--max_tpm=100",)),
    "no role to create tables": Case(
        "results dataset",
        ("GRANT `roles/bigquery.dataEditor` ON SCHEMA `imagebeam-local`.`{results}`",),
        denied=denied("bigquery.tables.create", ":{results}"),
    ),
    "no role to write rows": Case(
        "results dataset",
        ("bigquery.tables.updateData", "roles/bigquery.dataEditor"),
        denied=denied("bigquery.tables.updateData", ":{results}"),
    ),
    "no role to create the results dataset": Case(
        "project roles",
        (GCLOUD, "bigquery.datasets.create", "roles/bigquery.user"),
        ("--results={data}_new",),
        denied=denied("bigquery.datasets.create"),
    ),
    "no bucket for the work directory": Case(
        "work directory", ("gcloud storage buckets create gs://no-such-bucket-here",), ("--work_dir=gs://no-such-bucket-here",)
    ),
    "no role on the bucket of the work directory": Case(
        "work directory",
        ("gcloud storage buckets add-iam-policy-binding gs://{work}", "roles/storage.objectUser", ME),
        denied=denied("storage.objects.create", "gs://{work}"),
    ),
    "a bucket that BigQuery cannot load from": Case(
        "bucket location",
        ("cannot load", "--location=europe-west4"),
        (*BATCH, "--source={near}.observations", "--results={near}_results", "--work_dir=gs://{work}/x"),
    ),
    "no role on the images": Case(
        "sample image",
        ("gcloud storage buckets add-iam-policy-binding gs://{images}", "roles/storage.objectViewer", ME),
        denied=denied("storage.objects.get", "gs://{images}"),
    ),
    "missing images": Case(
        "sample image", ("no such object", "newest snapshot"), ("--source={gone}.observations",)
    ),
    "invalid images": Case("sample image", ("no image", "--where"), ("--source={broken}.observations",)),
    "a location without the model": Case("model profile", ("--location=global",), ("--location=us-central1",)),
    "a retired model": Case(
        "model",
        ("does not exist at location global", "--model"),
        faults={"vertex": {"retired_models": ["gemini-3.5-flash-lite"]}},
    ),
    "a model that retires soon": Case(
        "model profile", ("retires on 2999", "--model"), ("--models_file={soon}",), state="warning", code=0
    ),
    "Vertex AI is disabled": Case(
        "model",
        ("gcloud services enable aiplatform.googleapis.com --project=imagebeam-local",),
        faults=disabled("aiplatform"),
    ),
    "no role to call the model": Case(
        "probe call",
        (GCLOUD, "aiplatform.endpoints.predict", "roles/aiplatform.user"),
        denied=denied("aiplatform.endpoints.predict"),
    ),
    "images that Vertex AI cannot read": Case(
        "probe call",
        ("gcloud storage buckets add-iam-policy-binding gs://{images}", AGENT, "slower"),
        denied=denied("storage.objects.get", "gs://{images}", "aiplatform"),
        state="warning",
        code=0,
    ),
    "images that Vertex AI cannot read, URIs only": Case(
        "probe call",
        ("--transport=auto", AGENT),
        ("--transport=uri",),
        denied=denied("storage.objects.get", "gs://{images}", "aiplatform"),
    ),
    "images that Vertex AI cannot read, batch jobs": Case(
        "probe call",
        ("--lane=flex", "gcloud storage buckets add-iam-policy-binding gs://{images}", AGENT, "storage.objectViewer"),
        BATCH,
        denied=denied("storage.objects.get", "gs://{images}", "aiplatform"),
    ),
    "images that Vertex AI cannot read, embeddings": Case(
        "probe call",
        (AGENT,),
        ("--dimension=128",),
        "embed",
        denied=denied("storage.objects.get", "gs://{images}", "aiplatform"),
        state="warning",
        code=0,
    ),
    "images that Vertex AI cannot read, no paid call": Case(
        "probe call",
        (AGENT,),
        ("--no_probe",),
        denied=denied("storage.objects.get", "gs://{images}", "aiplatform"),
        state="warning",
        code=0,
    ),
    "an exhausted quota": Case(
        "probe call",
        ("quota", "slows down"),
        faults={"vertex": {"rules": [NO_MODEL_CALL | {"code": 429}]}},
        state="warning",
        code=0,
    ),
    "a request that the model rejects": Case(
        "probe call",
        ("INVALID_ARGUMENT", "imagebeam tasks check"),
        faults={"vertex": {"rules": [NO_MODEL_CALL | {"code": 400}]}},
    ),
    "a model that only fails": Case(
        "probe call", ("HTTP_503",), faults={"vertex": {"rules": [NO_MODEL_CALL | {"code": 503}]}}, code=3
    ),
    "a work directory that batch jobs cannot read": Case(
        "batch service agent",
        ("gcloud storage buckets add-iam-policy-binding gs://{work}", f"serviceAccount:{AGENT}", "objectUser"),
        BATCH,
        denied=denied("storage.objects.get", "gs://{work}", "aiplatform"),
    ),
    "no role to create batch jobs": Case(
        "project roles",
        (GCLOUD, "roles/aiplatform.user"),
        BATCH,
        denied=denied("aiplatform.batchPredictionJobs.create"),
    ),
    "a missing connection": Case(
        "connection", ("bq mk --connection", "--create_connection"), ("--lane=sql", "--connection=us.imagery"), "embed"
    ),
    "an object table of other images": Case(
        "object table",
        ("--object_uris", "gs://{images}/"),
        ("--lane=sql", "--object_uris=gs://{images}/obs/*"),
        "embed",
    ),
    "a source without rows": Case(
        "sample image",
        ("the source has no rows",),
        ("--no_probe", "--source=-", "--query=SELECT * FROM {data}.observations LIMIT 0"),
    ),
    "Dataflow is disabled": Case(
        "Dataflow",
        ("gcloud services enable dataflow.googleapis.com --project=imagebeam-local",),
        ("{dataflow}",),
        faults=disabled("dataflow"),
    ),
    "no bucket for the temporary files of Dataflow": Case(
        "staging",
        ("gcloud storage buckets create gs://no-such-bucket-here",),
        ("{dataflow}", "--temp_location=gs://no-such-bucket-here/temp", "--no_probe"),
    ),
    "no role to start jobs on Dataflow": Case(
        "project roles", (GCLOUD, "roles/dataflow.developer"), ("{dataflow}",), denied=denied("dataflow.jobs.create")
    ),
    "workers that cannot read images": Case(
        "sample image",
        ("gcloud storage buckets add-iam-policy-binding gs://{images}", f"--member=serviceAccount:{WORKER}"),
        ("{dataflow}",),
        denied=denied("storage.objects.get", "gs://{images}", WORKER),
    ),
    "workers that cannot be impersonated": Case(
        "sample image",
        (f"gcloud iam service-accounts add-iam-policy-binding {WORKER}", "roles/iam.serviceAccountTokenCreator", ME),
        ("{dataflow}",),
        denied=denied("iam.serviceAccounts.getAccessToken"),
        state="warning",
        code=0,
    ),
    "a work directory far from the workers": Case(
        "bucket location", ("across regions", "--location=us-central1"), ("{dataflow}", "--work_dir=gs://{far}/x"),
        state="warning", code=0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def names(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The values of the words in braces."""
    cloud, client = project.cloud, bigquery.Client()
    far = bigquery.Dataset(f"{client.project}.{project.job.name}_far")
    far.location = "EU"
    client.create_dataset(far)
    near = make_job(cloud, tmp_path_factory.mktemp("near"), 1, location="europe-west4")
    gone = make_job(cloud, tmp_path_factory.mktemp("gone"), [{"data": None}])
    broken = make_job(cloud, tmp_path_factory.mktemp("broken"), [{"data": b"no"}])
    storage.Client().create_bucket(f"{project.work}-far", location="EU")
    soon = tmp_path_factory.mktemp("models") / "models.yaml"
    soon.write_text(project.models.read_text().replace("note: not before", "warn_from: 2000-01-01, note: not before"))
    return {
        "data": project.job.name, "results": project.job.results, "images": project.images, "work": project.work,
        "near": near.name, "gone": gone.name, "broken": broken.name, "far": f"{project.work}-far", "soon": str(soon),
    }  # fmt: skip


def filled(value: Any, fill: Callable[[str], str]) -> Any:
    """Fill in every text of a document."""
    if isinstance(value, str):
        return fill(value)
    if isinstance(value, Mapping):
        return {fill(key): filled(item, fill) for key, item in value.items()}
    return [filled(item, fill) for item in value] if isinstance(value, list | tuple) else value


def run_case(project: Project, names: Mapping[str, str], case: Case) -> Report:
    def fill(text: str) -> str:
        for name, meant in names.items():
            text = text.replace(f"{{{name}}}", meant)
        return text

    faults = filled(case.faults, fill)
    if case.denied:
        faults = {**faults, "access": {"denied": [filled(case.denied, fill)]}}
    project.cloud.faults(**faults)
    flags: list[str] = []
    for flag in case.flags:
        flags += project.dataflow() if flag == "{dataflow}" else [fill(flag)]
    found = report(project.arguments(*case.quickest, *flags))
    assert [(one["name"], one["state"]) for one in found.messages] == [(case.check, case.state)]
    (message,) = found.messages
    text = f"{message['cause']} {message['permission']} {message['fix']}"
    for words in case.expected:
        assert fill(words) in text
    assert message["tried"]
    return found


#: The first misconfiguration of each check; the others are long.
FIRST = {case.check: name for name, case in reversed(CASES.items())}.values()


@pytest.mark.parametrize("wrong", long_except(FIRST, CASES))
def test_reports_one_misconfiguration_once_with_its_fix(project: Project, names: Mapping[str, str], wrong: str) -> None:
    case = CASES[wrong]
    assert run_case(project, names, case).code == case.code


@pytest.mark.parametrize(
    ("days", "flags", "state", "expected"),
    [
        (40, (), "failure", "new snapshot"),
        (33, ("--no_probe",), "warning", "expire soon"),
        (32, ("--lane=batch",), "failure", "--lane=flex"),
    ],
)
def test_compares_the_age_of_the_snapshot_with_its_expiry(
    project: Project, days: float, flags: tuple[str, ...], state: str, expected: str
) -> None:
    project.snapshot(days)
    try:
        found = report(project.arguments("classify", *flags))
    finally:
        project.snapshot(1)
    (message,) = found.messages
    assert (message["name"], message["state"]) == ("snapshot", state)
    assert expected in f"{message['cause']} {message['fix']}"
    waits = {one["name"] for one in found.findings if one["state"] == "skipped"}
    assert waits == ({"sample image", "probe call"} if state == "failure" else set())


def test_reports_a_run_in_progress(project: Project) -> None:
    client = bigquery.Client()
    bq = BigQueryClient(client.project)
    table = lease.lease_table(TableName(client.project, project.job.results, "outcomes"), "image_quality")
    other = lease.Holder("other-run", "ada", "another-host", 1, 1, "2026-11-21T00:00:00+00:00")
    lease.acquire(bq, table, "other-run", me=other)
    try:
        (message,) = report(project.arguments("classify", "--no_probe")).messages
    finally:
        bq.drop_table(table)
    assert message["name"] == "other runs"
    assert "ada" in message["cause"]


def test_runs_every_check_and_reports_each_failure_once(project: Project) -> None:
    project.cloud.faults(
        access={"denied": [denied("storage.objects.get", project.images), denied("storage.objects.create")]},
        vertex={"retired_models": ["gemini-3.5-flash-lite"]},
    )
    found = report(project.arguments("classify", "--lane=batch"))
    assert [one["name"] for one in found.messages] == ["work directory", "sample image", "model"]
    assert {one["name"] for one in found.findings if one["state"] == "skipped"} == {
        "bucket location", "probe call", "batch service agent",
    }  # fmt: skip
    assert found.code == 2


def test_warns_about_settings_that_the_model_ignores(project: Project, tmp_path: Path) -> None:
    task = tmp_path / "hot.yaml"
    task.write_text("name: hot\nprompt: Look.\ngeneration: {temperature: 0.2}\n")
    found = report(project.arguments("classify", f"--task={task}", "--no_probe"))
    assert found.code == 0
    assert [(one["name"], one["state"], one["cause"]) for one in found.messages] == [
        (
            "task",
            "warning",
            "model gemini-3.5-flash-lite ignores generation.temperature: not sent, not part of the version",
        )
    ]


def test_skips_permissions_that_cannot_be_tested(project: Project) -> None:
    project.cloud.faults(**disabled("cloudresourcemanager"))
    found = report(project.arguments("classify", "--lane=batch"))
    assert found.messages == []
    (skipped,) = (one for one in found.findings if one["state"] == "skipped")
    assert skipped["name"] == "project roles"
    assert "aiplatform.batchPredictionJobs.create" in skipped["cause"]


# -- the gate of paid commands -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", ["a revoked key", "no role to see the source", "an invalid condition", "no role to call the model"]
)
def test_paid_commands_stop_with_the_message_of_preflight(
    project: Project, names: Mapping[str, str], wrong: str
) -> None:
    case = CASES[wrong]
    (message,) = run_case(project, names, case).messages
    before = project.cloud.counters().get("vertex", {}).get("calls", 0)
    code, _, err = run_cli(project.arguments("classify", *case.flags)[1:])
    line = err.splitlines()[-1]
    assert code in (2, 3), err
    assert line.startswith("imagebeam: ")
    assert message["permission"] in line
    assert message["fix"] in line
    assert project.cloud.counters().get("vertex", {}).get("calls", 0) == before


def test_only_free_checks_gate_commands() -> None:
    gates = [check for check in CHECKS if check.gate is not Gate.NONE]
    assert len(gates) > 10
    assert {check.cost for check in gates} <= {Cost.NONE, Cost.FREE}


# -- the command --------------------------------------------------------------------------------------------


def test_prints_a_line_per_check_and_the_fix_below_a_failure(project: Project) -> None:
    project.cloud.faults(access={"denied": [denied("storage.objects.get", project.images)]})
    arguments = project.arguments("classify", "--no-probe")
    arguments.remove("classify")  # the default
    code, out, err = run_cli(arguments)
    assert (code, err) == (2, "")
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("failure  sample image"))
    labels = [line.split()[0] for line in lines[start + 1 :] if re.match(r" {9}\w", line)]
    assert labels[:4] == ["tried", "cause", "permission", "fix"]
    assert lines[-1] == "not ready: 17 ok, 1 failure, 1 skipped"
    assert any(line.startswith("skipped  probe call") and "waits for: sample image" in line for line in lines)


def test_json_has_every_field_and_quiet_prints_only_problems(project: Project) -> None:
    found = report(project.arguments("embed", "--lane=sql"))
    assert {"command", "lane", "transport", "ready", "exit_code", "counts", "findings"} == set(found.document)
    assert found.document["counts"] == {"ok": len(found.findings), "warning": 0, "failure": 0, "skipped": 0}
    for one in found.findings:
        assert {"name", "state", "tried", "found", "cause", "permission", "fix", "systemic"} == set(one)
    code, out, _ = run_cli([*project.arguments("embed", "--lane=sql"), "--quiet"])
    assert (code, out.strip()) == (0, f"ready: {len(found.findings)} ok")


def test_rejects_unknown_flags(project: Project) -> None:
    code, out, err = run_cli(project.arguments("classify", "--no_prob"))
    assert (code, out) == (2, "")
    assert "no_prob" in err
    assert run_cli(["preflight", "clasify"])[0] == 2
    assert "--no_probe" in run_cli(["preflight", "--help"])[1]


def test_checks_come_after_those_that_they_need() -> None:
    seen: set[str] = set()
    for check in CHECKS:
        assert set(check.needs) <= seen, check.name
        assert check.name not in seen
        seen.add(check.name)
