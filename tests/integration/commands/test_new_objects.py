"""The guide for new objects of a bucket: its SQL, the command line of its job, its workflow and gcloud commands."""

import re
import shlex
from pathlib import Path

import google.cloud.storage as storage
import pytest
import yaml
from google.cloud import bigquery
from support.documents import commands
from support.jobs import PHOTOS, captured
from support.paths import ROOT

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.cli import flex_template

PAGE = (ROOT / "docs" / "guides" / "new-objects.md").read_text(encoding="utf-8")
JOB, EVENTS = "imagebeam-new-objects", "imagebeam-events@my-project.iam.gserviceaccount.com"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def gcloud(*start: str) -> list[str]:
    """Return the only gcloud command of the page that starts with these words."""
    lines = [shlex.split(line) for line in commands(PAGE) if line.startswith("gcloud ")]
    (found,) = [line for line in lines if line[1 : 1 + len(start)] == list(start)]
    return found


def flag(command: list[str], name: str) -> str:
    (found,) = [word.partition("=")[2] for word in command if word.startswith(f"--{name}=")]
    return found


def job_arguments() -> list[str]:
    """Return the arguments of the command in the container."""
    deploy = gcloud("run", "jobs", "deploy", JOB)
    words = flag(deploy, "args").split(",")
    assert (flag(deploy, "command"), words[:2]) == ("python", ["-m", "imagebeam.pipeline.cli.flex_template"])
    return words[2:]


@pytest.fixture
def local(cloud: LocalCloud) -> dict[str, str]:
    """Names of the page → names on the local cloud, where bucket, connection and tables are ready."""
    names = {"my-project": cloud.project, "my-photos": "new-photos", "my-bucket": "new-work", "europe-west6": "us"}
    for name in ("new-photos", "new-work"):
        storage.Client().create_bucket(name)
    return names


def replaced(text: str, names: dict[str, str]) -> str:
    for name, other in names.items():
        text = text.replace(name, other)
    return text


def run_job(names: dict[str, str]) -> tuple[int, str]:
    arguments = [replaced(argument, names) for argument in job_arguments()]
    with captured() as (out, err):
        code = flex_template.run_command(arguments)
    return code, out.getvalue() + err.getvalue()


@pytest.mark.long
def test_every_run_processes_the_objects_without_an_answer(
    local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = bigquery.Client()
    ddl, source = (replaced(block, local) for block in blocks("sql"))
    client.create_dataset("photos")
    client.query("CREATE CONNECTION `us.photos` OPTIONS (connection_type = 'CLOUD_RESOURCE')").result()
    client.query(ddl).result()
    bucket = storage.Client().bucket("new-photos")
    storage.Client().bucket("new-work").blob("imagebeam/new_objects.sql").upload_from_string(source)

    def upload(name: str, photo: int) -> None:
        bucket.blob(name).upload_from_filename(PHOTOS[photo], content_type="image/jpeg")

    def answered() -> int:
        (row,) = client.query("SELECT COUNT(*) n FROM photo_answers.describe").result()
        return int(row.n)

    for number in range(3):
        upload(f"day1/{number}.jpg", number)
    bucket.blob("day1/_READY").upload_from_string(b"", content_type="text/plain")
    assert run_job(local)[0] == 0
    assert answered() == 3
    upload("day2/4.jpg", 4)
    upload("day1/0.jpg", 5)  # overwritten
    code, printed = run_job(local)
    assert code == 0, printed
    assert answered() == 5
    code, printed = run_job(local)
    assert code == 0, printed
    assert answered() == 5
    client.delete_dataset("photo_answers", delete_contents=True)
    client.delete_dataset("photos", delete_contents=True)


def test_the_workflow_starts_the_job_for_markers_only() -> None:
    (text,) = blocks("yaml")
    skip, start = (next(iter(step.values())) for step in yaml.safe_load(text)["main"]["steps"])
    condition = skip["switch"][0]["condition"]
    (pattern,) = re.findall(r'^\$\{not\(text\.match_regex\(event\.data\.name, "(.+)"\)\)\}$', condition)
    names = ("_READY", "day1/_READY", "day1/a.jpg", "day1/NOT_READY", "_READY/a.jpg", "day1/_READY.jpg")
    assert [bool(re.search(pattern, name)) for name in names] == [True, True, False, False, False, False]
    assert start["args"]["url"].endswith(f"/projects/my-project/locations/europe-west6/jobs/{JOB}:run")
    assert start["args"]["url"] == flag(gcloud("scheduler", "jobs", "create", "http", JOB), "uri")
    assert start["args"]["auth"] == {"type": "OAuth2"}


def test_gcloud_commands_agree_with_each_other() -> None:
    lines = [shlex.split(line) for line in commands(PAGE) if line.startswith("gcloud ")]
    for line in lines:
        if line[1] != "storage":
            assert "--project=my-project" in line or "my-project" in line, line
        places = {word for word in line if word.startswith(("--region=", "--location=", "--destination-workflow-loc"))}
        assert all(place.endswith("=europe-west6") for place in places), line
    trigger = gcloud("eventarc", "triggers", "create", JOB)
    assert flag(trigger, "destination-workflow") == gcloud("workflows", "deploy", JOB)[3]
    filters = [word.removeprefix("--event-filters=") for word in trigger if word.startswith("--event-filters=")]
    assert filters == ["type=google.cloud.storage.object.v1.finalized", "bucket=my-photos"]
    assert flag(trigger, "service-account") == flag(gcloud("workflows", "deploy", JOB), "service-account") == EVENTS
    granted = {
        flag(line, "role")
        for line in lines
        if "add-iam-policy-binding" in line and flag(line, "member") == f"serviceAccount:{EVENTS}"
    }
    assert granted == {"roles/run.invoker", "roles/workflows.invoker", "roles/eventarc.eventReceiver"}
    copied = gcloud("storage", "cp")[-1]
    assert f"--query_file={copied}" in job_arguments()
