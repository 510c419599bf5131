"""The program gcloud of the local cloud: what it does, and what it rejects as gcloud and the services do."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import pytest

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.gcloud import program

IMAGE = "europe-west6-docker.pkg.dev/imagebeam-local/images/imagebeam:1"
METADATA = {
    "name": "job",
    "parameters": [
        {"name": "task", "label": "Task", "helpText": "Task.", "isOptional": False, "regexes": ["^[a-z_]+$"]},
        {"name": "lane", "label": "Lane", "helpText": "Lane.", "isOptional": True,
         "enumOptions": [{"value": "online"}, {"value": "flex"}]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def bucket(cloud: LocalCloud) -> str:
    return str(storage.Client().create_bucket("gcloud-tests").name)


@pytest.fixture(scope="module")
def template(cloud: LocalCloud, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A template whose image was built."""
    source = tmp_path_factory.mktemp("source")
    (source / "build.yaml").write_text('steps: [{name: docker, args: ["--tag=${_IMAGE}"]}]\nimages: ["${_IMAGE}"]\n')
    (source / "metadata.json").write_text(json.dumps(METADATA))
    submit = ["builds", "submit", str(source), f"--config={source / 'build.yaml'}", f"--substitutions=_IMAGE={IMAGE}"]
    assert program.main([str(cloud.directory), *submit]) == 0
    url = f"gs://{bucket}/job.json"
    build = ["dataflow", "flex-template", "build", url, f"--image={IMAGE}", "--sdk-language=PYTHON"]
    assert program.main([str(cloud.directory), *build, f"--metadata-file={source / 'metadata.json'}"]) == 0
    return url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "build.yaml").write_text("steps: [{name: docker}]\nimages: [$_IMAGE]\n")
    return tmp_path


def launch(template: str, *more: str) -> list[str]:
    return [
        *("dataflow", "flex-template", "run", "my-job", f"--template-file-gcs-location={template}"),
        *("--region=europe-west6", *more),
    ]


def jobs(cloud: LocalCloud) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{cloud.url}/_local/dataflow") as answer:
        found: list[dict[str, Any]] = json.load(answer)["jobs"]
    return found


def failure(cloud: LocalCloud, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = program.main([str(cloud.directory), *arguments])
    return code, capsys.readouterr().err


def test_comes_first_on_the_path(cloud: LocalCloud) -> None:
    done = subprocess.run(["gcloud", "config", "get-value", "project"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{cloud.project}\n"
    assert os.environ["CLOUDSDK_CONFIG"] == str(cloud.directory / "gcloud")
    assert os.environ["PATH"].split(os.pathsep)[0] == str(cloud.directory / "bin")


def test_queues_a_job_with_its_parameters_and_environment(
    cloud: LocalCloud, template: str, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(jobs(cloud))
    arguments = launch(
        template,
        *("--parameters=task=signs", "--parameters=^~^lane=flex", f"--temp-location=gs://{bucket}/temp"),
        *("--num-workers=2", "--additional-user-labels=team=maps,run=1", "--worker-machine-type=n2-standard-2"),
    )
    assert program.main([str(cloud.directory), *arguments]) == 0
    assert "JOB_STATE_QUEUED" in capsys.readouterr().out
    job = jobs(cloud)[before:][0]
    assert job["launchParameter"]["parameters"] == {"task": "signs", "lane": "flex"}
    assert job["labels"] == {"team": "maps", "run": "1"}
    assert job["launchParameter"]["environment"] == {
        "tempLocation": f"gs://{bucket}/temp",
        "machineType": "n2-standard-2",
        "numWorkers": 2,
        "additionalUserLabels": {"team": "maps", "run": "1"},
    }
    code, err = failure(cloud, arguments, capsys)
    assert code == 1
    assert "ERROR: (gcloud.dataflow.flex-template.run) ALREADY_EXISTS: There is already an active job named" in err
    urllib.request.urlopen(urllib.request.Request(f"{cloud.url}/_local/dataflow", method="DELETE"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "Details: task: Missing required parameter"),
        (["--parameters=task=3"], "task: Unmatched regex: '^[a-z_]+$'"),
        (["--parameters=task=a,lane=sql"], "lane: Invalid value 'sql'"),
        (["--parameters=task=a,limits=5"], "limits: Unrecognized parameter"),
        (["--parameters=task=a", "--temp-location=gs://no-such-bucket/t"], "The specified bucket does not exist"),
        (["--parameters=task=a", "--region=zurich"], "is not a region where Dataflow runs"),
        (["--parameters=task=a", "--project=other"], "does not have permission to access projects instance [other]"),
    ],
)
def test_rejects_a_launch_that_dataflow_rejects(
    cloud: LocalCloud, template: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = failure(cloud, launch(template, *more), capsys)
    assert code == 1
    assert err.startswith("ERROR: (gcloud.dataflow.flex-template.run) ")
    assert said in err


def test_rejects_a_launch_of_an_image_that_was_not_built(
    cloud: LocalCloud, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"gs://{bucket}/other.json"
    build = ["dataflow", "flex-template", "build", url, f"--image={IMAGE}-other", "--sdk-language=PYTHON"]
    assert program.main([str(cloud.directory), *build]) == 0
    code, err = failure(cloud, launch(url), capsys)
    assert code == 1
    assert f"{IMAGE}-other: manifest unknown" in err
    code, err = failure(cloud, launch(f"gs://{bucket}/none.json"), capsys)
    assert f"Unable to open template file: gs://{bucket}/none.json" in err


@pytest.mark.parametrize(
    ("substitutions", "said"),
    [
        ("", "key in the template '_IMAGE' is not a valid built-in substitution"),
        (f"_IMAGE={IMAGE},_TAG=1", "key '_TAG' in the substitution data is not matched in the template"),
        ("_IMAGE=europe-west6-docker.pkg.dev/other/images/a:1", "artifactregistry.repositories.uploadArtifacts"),
        ("_IMAGE=a:1", "invalid image name 'a:1'"),
        ("_IMAGE", "Bad syntax for dict arg: [_IMAGE]"),
    ],
)
def test_rejects_a_build_that_cloud_build_rejects(
    cloud: LocalCloud, source: Path, substitutions: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["builds", "submit", str(source), f"--config={source / 'build.yaml'}"]
    code, err = failure(cloud, [*arguments, *([f"--substitutions={substitutions}"] if substitutions else [])], capsys)
    assert code in {1, 2}
    assert err.startswith("ERROR: (gcloud.builds.submit) ")
    assert said in err


def test_copies_and_lists_objects(
    cloud: LocalCloud, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("ä")
    run = [str(cloud.directory), "storage"]
    assert program.main([*run, "cp", str(tmp_path / "a.txt"), f"gs://{bucket}/in/"]) == 0
    assert program.main([*run, "cp", f"gs://{bucket}/in/a.txt", f"gs://{bucket}/out/b.txt"]) == 0
    assert program.main([*run, "cp", f"gs://{bucket}/out/b.txt", str(tmp_path)]) == 0
    assert (tmp_path / "b.txt").read_text() == "ä"
    capsys.readouterr()
    assert program.main([*run, "ls", f"gs://{bucket}/in/"]) == 0
    assert capsys.readouterr().out == f"gs://{bucket}/in/a.txt\n"
    assert program.main([*run, "buckets", "create", "gs://created-by-gcloud", "--location=eu"]) == 0
    assert storage.Client().get_bucket("created-by-gcloud").location == "EU"
    code, err = failure(cloud, ["storage", "cp", str(tmp_path / "none"), f"gs://{bucket}/"], capsys)
    assert code == 1
    assert "The following URLs matched no objects or files" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["compute", "instances", "list"], 1, "ERROR: (gcloud) compute instances list: not part of the local cloud"),
        (["dataflow", "flex-template", "build", "gs://b/x.json"], 2, "argument --image --sdk-language: Must be"),
        (["dataflow", "flex-template", "run", "a", "--regin=x"], 2, "unrecognized arguments:\n  --regin=x"),
        (["dataflow", "flex-template", "run"], 2, "JOB_NAME: Must be specified."),
        (["builds", "submit", "a", "b"], 2, "unrecognized arguments:\n  b"),
        (["builds", "submit", "a", "--config"], 2, "argument --config: expected one argument"),
    ],
)
def test_rejects_arguments_as_gcloud_does(
    cloud: LocalCloud, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, err = failure(cloud, arguments, capsys)
    assert found == code
    assert said in err


def test_never_works_without_the_local_cloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(tmp_path), "storage", "ls"]) == 1
    assert "is not running: run imagebeam local up --detach" in capsys.readouterr().err
