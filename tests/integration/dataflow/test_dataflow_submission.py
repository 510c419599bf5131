"""Submission to Dataflow: real clients, the local Cloud Storage, and a local Dataflow that only accepts jobs."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import google.cloud.dataflow as dataflow
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from google.api_core.exceptions import BadRequest, Forbidden
from hypothesis import given
from hypothesis import strategies as st
from support.dataflow_local import IMAGE, Place, Submission, make_place
from support.jobs import captured, run_cli
from support.paths import ROOT

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.run import assemble, dataflow_options, dataflow_staging
from imagebeam.pipeline.run.embed_settings import JOBS
from imagebeam.transforms.core.errors import UserError


@pytest.fixture(scope="module", params=JOBS)
def submission(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Submission:
    command: str = request.param
    place = make_place(cloud, tmp_path_factory.mktemp("submission"), 7)
    network = ["--network=street", "--subnetwork=regions/us-central1/subnetworks/street", "--use_public_ips=False"]
    account = "--service_account_email=workers@my-project.iam.gserviceaccount.com"
    cloud.reset()
    more = [f"--run_id=first-{command}", "--labels=team=maps", account, *network]
    code, _, said = run_cli(place.arguments(*more, command=command))
    (job,) = place.submitted()
    calls = cloud.counters()["dataflow"]["calls"]
    return Submission(command, place, code, said, job, calls)


#: A worker that has only the package and the graph: no main module, no options, no files.
WORKER = """
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
graph = beam_runner_api_pb2.Pipeline.FromString(open("pipeline.pb", "rb").read())
for environment in graph.components.environments.values():
    environment.CopyFrom(beam_runner_api_pb2.Environment(urn="beam:env:embedded_python:v1"))
FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()
"""


def pool(submission: Submission) -> Any:
    (only,) = submission.job.environment.worker_pools
    return only


def options(submission: Submission) -> dict[str, Any]:
    return dict(submission.job.environment.sdk_pipeline_options["options"])


def test_submits_the_job_without_waiting(cloud: LocalCloud, submission: Submission) -> None:
    assert submission.code == 0, submission.said
    summary = f"gs://{submission.place.bucket}/imagebeam/runs/first-{submission.command}/summary.json"
    assert submission.said.splitlines()[-1] == f"submitted; the summary will be in {summary}"
    assert submission.calls == {"create": 1}


def test_names_and_labels_the_job_for_its_run(cloud: LocalCloud, submission: Submission) -> None:
    assert submission.job.name == f"imagebeam-first-{submission.command}"
    assert submission.job.type_ == dataflow.JobType.JOB_TYPE_BATCH
    assert dict(submission.job.labels) == {"imagebeam-run": f"first-{submission.command}", "team": "maps"}


def test_uses_one_worker_with_one_process_and_few_threads(cloud: LocalCloud, submission: Submission) -> None:
    workers = pool(submission)
    assert (workers.num_workers, workers.autoscaling_settings.max_num_workers) == (1, 1)
    none = dataflow.AutoscalingAlgorithm.AUTOSCALING_ALGORITHM_NONE
    assert workers.autoscaling_settings.algorithm == none
    assert workers.num_threads_per_worker == 4
    experiments = set(submission.job.environment.experiments)
    assert "no_use_multiple_sdk_containers" in experiments
    assert "use_multiple_sdk_containers" not in experiments


def test_workers_run_the_image_and_install_nothing(cloud: LocalCloud, submission: Submission) -> None:
    workers = pool(submission)
    assert [image.container_image for image in workers.sdk_harness_container_images] == [IMAGE]
    assert workers.worker_harness_container_image == IMAGE
    environments = submission.place.graph().components.environments.values()
    payloads = [beam_runner_api_pb2.DockerPayload.FromString(place.payload) for place in environments]
    assert {payload.container_image for payload in payloads} == {IMAGE}
    # The list of installed packages is for the console; a pickled main session or a source package would be here.
    assert {package.name for package in workers.packages} == {"submission_environment_dependencies.txt"}
    assert set(submission.place.staged()) == {"pipeline.pb", "submission_environment_dependencies.txt"}
    assert options(submission)["save_main_session"] is False


def test_passes_account_and_network(cloud: LocalCloud, submission: Submission) -> None:
    assert submission.job.environment.service_account_email == "workers@my-project.iam.gserviceaccount.com"
    workers = pool(submission)
    assert (workers.network, workers.subnetwork) == ("street", "regions/us-central1/subnetworks/street")
    assert workers.ip_configuration == dataflow.WorkerIPAddressConfiguration.WORKER_IP_PRIVATE


def test_puts_temporary_files_below_the_work_directory(cloud: LocalCloud, submission: Submission) -> None:
    work_dir = f"gs://{submission.place.bucket}/imagebeam"
    assert options(submission)["temp_location"].startswith(f"{work_dir}/temp/")
    assert options(submission)["staging_location"].startswith(f"{work_dir}/staging/")


def test_stages_a_graph_with_every_step(cloud: LocalCloud, submission: Submission) -> None:
    steps = submission.place.steps()
    task = {"classify": "image_quality", "embed": "embed/gemini-embedding-2/3072"}[submission.command]
    doing = {
        "Start/Start/FlatMap(_start)",
        "Read/ReadPages",
        f"Call/Call({task})",
        "Finish/Finish",
        "Finish/FailOnMismatch",
    }
    # A shuffle follows every step that a retry must not repeat.
    keeping = {"Start/Once", "Start/SpreadPages", "Read/SpreadUnitBatches", "Finish/Sum", "Finish/Settle"}
    assert steps >= doing | keeping


@pytest.mark.long
def test_workers_run_the_job_with_only_the_staged_graph_and_the_package(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 5)
    assert run_cli(place.arguments("--run_id=staged"))[0] == 0
    place.staged()["pipeline.pb"].download_to_filename(tmp_path / "pipeline.pb")
    (tmp_path / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [sys.executable, "worker.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(place.staged()["summary.json"].download_as_bytes())
    assert (summary["state"], summary["counted"]["ok"], summary["problems"]) == ("DONE", 5, [])
    assert set(place.job.calls().values()) == {1}
    assert place.job.query("SELECT COUNT(*) AS answers FROM {results}.image_quality") == [{"answers": 5}]


def test_writes_the_job_for_the_launcher_of_a_template(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(cloud, tmp_path, 3)
    # As the launcher of a Flex Template starts it: all values are text, in alphabetical order, with its own labels.
    more = [
        f"--dataflow_endpoint={cloud.url}",
        "--job_name=from-the-console",
        '--labels={\n   "goog-dataflow-provided-template-name" : "imagebeam-classify"\n}\n',
        "--limit=2",
        "--machine_type=n2-standard-2",
        "--max_cost_usd=1",
        "--max_num_workers=1",
        "--project=imagebeam-local",
        "--query=",
        "--region=us-central1",
        "--results=" + place.job.results,
        "--runner=DataflowRunner",
        f"--source=imagebeam-local:{place.job.source}",
        f"--staging_location=gs://{place.bucket}/staging",
        "--task=image_quality",
        f"--temp_location=gs://{place.bucket}/temp",
        f"--template_location=gs://{place.bucket}/staging/template_launches/1/job_object",
        f"--work_dir=gs://{place.bucket}/imagebeam",
        "--yes=True",
    ]
    monkeypatch.setenv("IMAGEBEAM_SDK_IMAGE", IMAGE)
    program = ROOT / "templates" / "main.py"
    monkeypatch.setattr(sys, "argv", [str(program), *more])
    with captured() as (_, err), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    assert not ended.value.code, err.getvalue()
    job = dataflow.Job.from_json(place.staged()["job_object"].download_as_bytes(), ignore_unknown_fields=False)
    assert job.name == "from-the-console"
    assert job.labels["goog-dataflow-provided-template-name"] == "imagebeam-classify"
    (workers,) = job.environment.worker_pools
    assert (workers.num_workers, workers.machine_type) == (1, "n2-standard-2")
    assert workers.worker_harness_container_image == IMAGE
    assert "pipeline.pb" in place.staged()
    # The launcher submits that file; the program itself calls no service.
    assert place.submitted() == []
    assert "dataflow" not in cloud.counters()


@pytest.mark.long
def test_workers_run_an_embed_job(cloud: LocalCloud, tmp_path: Path) -> None:
    place = make_place(cloud, tmp_path, 4)
    code, _, said = run_cli(place.arguments("--run_id=vectors", "--dimension=8", "--vector_index", command="embed"))
    assert code == 0
    assert "no vector index yet: the run is still in progress" in said
    place.work()
    summary = json.loads(place.staged()["summary.json"].download_as_bytes())
    assert (summary["state"], summary["counted"]["ok"], summary["problems"]) == ("DONE", 4, [])
    assert place.job.query("SELECT COUNT(*) AS n FROM {results}.embeddings_gemini_embedding_2_8") == [{"n": 4}]


def test_rejects_the_sql_lane(cloud: LocalCloud, bad: Place) -> None:
    code, out, err = run_cli(bad.arguments("--lane=sql", command="embed"))
    assert (code, out) == (2, "")
    assert "run imagebeam embed --lane=sql without --runner" in err.splitlines()[-1]
    assert bad.staged() == {}


@pytest.mark.parametrize("command", JOBS)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--region="], "no region: set --region"),
        (["--region=europe-west"], "--region=europe-west is not a Google Cloud region; did you mean europe-west"),
        (["--region=mars-north1"], "--region=mars-north1 is not a Google Cloud region"),
        (["--region=us-central1-a"], "--region=us-central1-a is a zone; its region is us-central1"),
        (["--worker_zone=us-centrall-a"], "--worker_zone=us-centrall-a is not a Google Cloud region"),
        (["--work_dir=runs"], "/runs is a local directory"),
        (["--temp_location=/tmp/x"], "--temp_location=/tmp/x: Dataflow workers cannot read it"),
        (["--staging_location=staging"], "use --staging_location=gs://bucket/path"),
        (["--temp_location=gs://No_Bucket!/x"], "use --temp_location=gs://bucket/path"),
        (["--sdk_container_image="], "Dataflow workers need imagebeam: set --sdk_container_image=IMAGE"),
        (["--sdk_container_image=", "--setup_file=no_setup.py"], "--setup_file=no_setup.py: file not found"),
        (["--num_workers=0"], "--num_workers=0: a job needs at least one worker"),
        (["--num_workers=1", "--max_num_workers=4"], "--num_workers=1 and --max_num_workers=4 differ"),
        (["--autoscaling_algorithm=THROUGHPUT_BASED"], "the number of workers is fixed"),
        (["--experiments=use_multiple_sdk_containers"], "imagebeam runs one process per worker"),
        (["--direct_num_workers=4"], "on Dataflow use --num_workers"),
        (["--job_name=My_Job"], "--job_name=My_Job: use lowercase letters"),
        (["--labels=Team=Maps"], "--labels=Team=Maps: write --labels=key=value"),
        (["--labels={team}"], "--labels={team} is not a JSON object"),
        (["--service_account_email=workers"], "an account such as workers@"),
        (["--subnetwork=street"], "write regions/REGION/subnetworks/NAME"),
        (["--worker_region=us-west1", "--worker_zone=us-west1-a"], "the zone implies the region"),
        (["--num_workers=many"], "--num_workers"),
        (["--use_public_ips=1"], "--use_public_ips takes true or false, not '1'"),
        (["--yes=1"], "--yes takes true or false, not '1'"),
        (["--query=SELECT 1"], "--source and --query are both given"),
        (["--colour=red"], "unknown flag --colour"),
        (["--dataflow_endpoint=not-a-url"], "Beam rejects the options of the job: Invalid url (not-a-url)"),
        (["--max_rpm=1", "--num_workers=2"], "--max_rpm=1 is less than one call per minute (1) for each of 2"),
    ],
)
def test_rejects_invalid_options_in_one_line_before_staging(
    cloud: LocalCloud, bad: Place, command: str, wrong: list[str], said: str
) -> None:
    code, out, err = run_cli(bad.arguments(*wrong, command=command))
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert bad.staged() == {}
    assert bad.submitted() == []


@pytest.fixture(scope="module")
def bad(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(cloud, tmp_path_factory.mktemp("bad"), 1)


def test_rejects_a_second_job_of_the_same_name_in_one_line(cloud: LocalCloud, submission: Submission) -> None:
    name = f"--job_name=imagebeam-first-{submission.command}"
    code, _, err = run_cli(submission.place.arguments(name, command=submission.command))
    assert code == 2
    assert "a Dataflow job of this name is already running" in err.splitlines()[-1]


def test_reports_a_missing_bucket_in_one_line(cloud: LocalCloud, bad: Place) -> None:
    code, _, err = run_cli(bad.arguments("--temp_location=gs://no-such-bucket-here/temp"))
    assert code == 2
    assert "bucket no-such-bucket-here does not exist; create it" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--temp_location=gs://{bucket}"],
        ["--temp_location=gs://{bucket}/a", "--staging_location=gs://{bucket}/b", "--num_workers=3"],
        ["--worker_region=us-west1", "--no_use_public_ips"],
        ["--worker_zone=us-west1-a", "--max_num_workers=2"],
    ],
)
def test_options_pass_the_validation_of_beam(cloud: LocalCloud, bad: Place, more: list[str]) -> None:
    given_ = ["--project=my-project", "--region=us-central1", f"--sdk_container_image={IMAGE}"]
    given_ += [argument.format(bucket=bad.bucket) for argument in more]
    work_dir = f"gs://{bad.bucket}/imagebeam"
    job = dataflow_options.build_dataflow_job(given_, work_dir=work_dir, run_id="20261121-a", environ={})
    options_ = PipelineOptions(job.arguments)
    assert PipelineOptionsValidator(options_, DataflowRunner()).validate() == []
    # Beam creates a default bucket for a location that it cannot parse.
    assert options_.view_as(GoogleCloudOptions).temp_location.startswith(f"gs://{bad.bucket}/")
    assert options_.view_as(GoogleCloudOptions).staging_location.startswith(f"gs://{bad.bucket}/")


def test_reports_missing_credentials_in_one_line(
    cloud: LocalCloud, bad: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    code, _, err = run_cli(bad.arguments())
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("imagebeam: no Google credentials")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Forbidden("no dataflow.jobs.create"), 3, "roles/dataflow.developer"),
        (BadRequest("The workflow could not be created.\nCauses: quota"), 3, "Dataflow rejects the job: 400 The"),
        (KeyError("ours"), None, "ours"),
    ],
)
def test_reports_rejected_submissions_in_one_line(error: Exception, code: int | None, said: str) -> None:
    shown = dataflow_staging.submission_error(error)
    assert getattr(shown, "exit_code", None) == code
    assert said in str(shown)
    assert "\n" not in str(shown)


@given(workers=st.integers(1, 400), ceiling=st.integers(1, 10_000_000))
def test_the_shares_of_all_workers_never_exceed_the_ceiling(workers: int, ceiling: int) -> None:
    said = ["--region=us-central1", "--sdk_container_image=image", f"--num_workers={workers}"]
    job = dataflow_options.build_dataflow_job(said, work_dir="gs://work", run_id="run", environ={})
    assert job.options.num_workers == job.options.max_num_workers == job.workers == workers
    if ceiling < workers:
        with pytest.raises(UserError):
            assemble.rate_per_process("--max_rpm", ceiling, job.workers, at_least=1)
        return
    share = assemble.rate_per_process("--max_rpm", ceiling, job.workers, at_least=1)
    assert share is not None
    assert share * 60 * workers <= ceiling * (1 + 1e-12)
