"""``imagebeam schedule``: commands that are safe to paste, and requests that the services can read."""

import json
import re
import shlex
from pathlib import Path

import google.cloud.storage as storage
import pytest
from google.cloud.dataflow_v1beta3 import LaunchFlexTemplateRequest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import captured, run_cli
from support.paths import ROOT

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.cli import flex_template
from imagebeam.pipeline.dataflow import schedule

DOCS = (ROOT / "docs" / "guides" / "schedule.md").read_text(encoding="utf-8")
IMAGE = "europe-west6-docker.pkg.dev/my-project/images/imagebeam:1"
WORKER = "workers@my-project.iam.gserviceaccount.com"
SCHEDULER = "imagebeam-scheduler@my-project.iam.gserviceaccount.com"
NEEDED = {
    "daily": {"template": "gs://my-bucket/templates/classify.json"},
    "batch": {"image": IMAGE},
    "vm": {"image": IMAGE},
}
RUN = {
    "project": "my-project",
    "region": "europe-west6",
    "task": "utility_pole",
    "source": "my_dataset.photos",
    "results": "answers",
    "work_dir": "gs://my-bucket/imagebeam",
    "max_cost_usd": "25",
    "service_account_email": WORKER,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(verb: str, *more: str) -> list[str]:
    """A command line; what is given more takes the place of what is usual, and nothing leaves it out."""
    flags = {**NEEDED[verb], **RUN}
    for argument in more:
        name, _, value = argument.removeprefix("--").partition("=")
        flags[name] = value
    return ["schedule", verb, *(f"--{name}={value}" for name, value in flags.items() if value)]


def commands(text: str) -> list[list[str]]:
    """The commands of a text, as a shell reads them: words that stand on a line of their own are none."""
    found: list[list[str]] = []
    for word in shlex.split(text):
        if word == "gcloud":
            found.append([])
        found[-1].append(word)
    return found


def printed(verb: str, *more: str) -> list[list[str]]:
    code, out, err = run_cli(line(verb, *more))
    assert code == 0, err
    assert "nothing was run" in err
    found = commands(out)
    assert "\n".join(shlex.join(command) for command in found) + "\n" == out
    return found


def flag(command: list[str], name: str) -> str:
    (found,) = [word.partition("=")[2] for word in command if word.startswith(f"--{name}=")]
    return found


def request(command: list[str]) -> LaunchFlexTemplateRequest:
    text = flag(command, "message-body")
    read = LaunchFlexTemplateRequest.from_json(text, ignore_unknown_fields=False)
    assert isinstance(read, LaunchFlexTemplateRequest)
    return read


def listed(text: str) -> list[str]:
    """A list as gcloud splits it."""
    separator, text = (text[1], text[3:]) if text.startswith("^") else (",", text)
    return text.split(separator)


def scheduled(found: list[list[str]]) -> list[list[str]]:
    return [command for command in found if command[1:5] == ["scheduler", "jobs", "create", "http"]]


def error_line(*arguments: str) -> str:
    code, out, err = run_cli(arguments)
    assert (code, out) == (2, "")
    (line_,) = err.splitlines()
    return line_


# Every night on Dataflow


def test_dataflow_parses_the_scheduled_request() -> None:
    found = printed("daily", "--num_workers=2", "--labels=team=maps", "--use_public_ips=false", "--experiments=one")
    (command,) = scheduled(found)
    assert command[5] == "imagebeam-utility-pole"
    assert flag(command, "uri") == (
        "https://dataflow.googleapis.com/v1b3/projects/my-project/locations/europe-west6/flexTemplates:launch"
    )
    assert (flag(command, "http-method"), flag(command, "oauth-service-account-email")) == ("POST", SCHEDULER)
    start = request(command).launch_parameter
    assert start.job_name == "imagebeam-utility-pole"
    assert start.container_spec_gcs_path == NEEDED["daily"]["template"]
    assert dict(start.parameters) == {
        "max_cost_usd": "25",
        "results": "answers",
        "source": "my_dataset.photos",
        "task": "utility_pole",
        "work_dir": "gs://my-bucket/imagebeam",
    }
    environment = start.environment
    assert (environment.num_workers, environment.max_workers) == (2, 2)
    assert environment.service_account_email == WORKER
    assert environment.ip_configuration.name == "WORKER_IP_PRIVATE"
    assert dict(environment.additional_user_labels) == {"team": "maps"}
    assert list(environment.additional_experiments) == ["one"]


def test_the_request_has_every_option_of_a_launch() -> None:
    options = {
        "machine_type": "n2-standard-2",
        "network": "street",
        "subnetwork": "regions/europe-west6/subnetworks/street",
        "worker_zone": "europe-west6-a",
        "staging_location": "gs://my-bucket/staging",
        "temp_location": "gs://my-bucket/temp",
        "dataflow_kms_key": "projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "flexrs_goal": "COST_OPTIMIZED",
    }
    more = [f"--{name}={value}" for name, value in options.items()]
    (command,) = scheduled(printed("daily", *more, "--dataflow_service_options=enable_prime"))
    environment = json.loads(flag(command, "message-body"))["launchParameter"]["environment"]
    values = set(map(str, environment.values()))
    assert set(options.values()) - values == {"COST_OPTIMIZED"}
    assert request(command).launch_parameter.environment.flexrs_goal.name == "FLEXRS_COST_OPTIMIZED"
    assert environment["additionalPipelineOptions"] == ["dataflow_service_options=enable_prime"]


def test_a_schedule_has_no_run_id() -> None:
    (command,) = scheduled(printed("daily"))
    body = flag(command, "message-body")
    assert "run_id" not in body
    assert "imagebeam-run" not in body
    assert "--run_id=x" in error_line(*line("daily", "--run_id=x"))


def test_copies_local_files_to_the_work_directory(here: Path) -> None:
    (here / "mine.sql").write_text("SELECT * FROM d.t")
    found = printed("daily", "--query_file=mine.sql", "--source=", "--name=nightly")
    place = "gs://my-bucket/imagebeam/launches/nightly/query_file.sql"
    assert found[0] == ["gcloud", "storage", "cp", str(here / "mine.sql"), place]
    assert request(found[-1]).launch_parameter.parameters["query_file"] == place


def test_reprocessed_states_come_from_flags_or_file(here: Path) -> None:
    (command,) = scheduled(printed("daily", "--reprocess=outdated"))
    assert request(command).launch_parameter.parameters["reprocess"] == "outdated"
    (here / "imagebeam.yaml").write_text("reprocess: failed\n")
    (command,) = scheduled(printed("daily"))
    assert request(command).launch_parameter.parameters["reprocess"] == "failed"


def test_lets_the_scheduler_use_the_service_account_of_the_workers() -> None:
    found = printed("daily")
    member = f"--member=serviceAccount:{SCHEDULER}"
    granted = {command[-1] if "role" in command[-1] else command[-2]: command for command in found if member in command}
    assert set(granted) == {"--role=roles/dataflow.admin", "--role=roles/iam.serviceAccountUser"}
    assert granted["--role=roles/iam.serviceAccountUser"][4] == WORKER
    own = "scheduler@my-project.iam.gserviceaccount.com"
    assert not any(
        "create" in command and "iam" in command for command in printed("daily", f"--scheduler_account={own}")
    )


# Batch jobs


def test_schedules_the_creation_and_the_collection_of_batch_jobs() -> None:
    found = printed("batch", "--collect_schedule=0 * * * *", "--batch_rounds=2")
    jobs = {command[4]: command for command in found if command[1:4] == ["run", "jobs", "deploy"]}
    submit, collect = jobs["imagebeam-utility-pole"], jobs["imagebeam-utility-pole-collect"]
    assert flag(submit, "command") == "imagebeam"
    asked = listed(flag(submit, "args"))
    assert asked[0] == "classify"
    assert {"--lane=batch", "--no_wait=true", "--batch_rounds=2", "--project=my-project"} <= set(asked)
    assert listed(flag(collect, "args")) == [
        "batch",
        "collect",
        "--no_wait=true",
        "--work_dir=gs://my-bucket/imagebeam",
    ]
    times = {command[5]: (flag(command, "schedule"), flag(command, "uri")) for command in scheduled(found)}
    run = "https://run.googleapis.com/v2/projects/my-project/locations/europe-west6/jobs/imagebeam-utility-pole"
    assert times == {
        "imagebeam-utility-pole": ("0 3 * * *", f"{run}:run"),
        "imagebeam-utility-pole-collect": ("0 * * * *", f"{run}-collect:run"),
    }


def test_scheduled_commands_are_valid(here: Path) -> None:
    # The commands parse their flags again, and report what is missing before they call a service.
    submit, collect = [command for command in printed("batch") if command[1:4] == ["run", "jobs", "deploy"]]
    looked = [text.replace("gs://my-bucket", str(here)) for text in listed(flag(collect, "args"))]
    assert run_cli(looked)[:2] == (0, f"no open batch runs in {here}/imagebeam\n")
    arguments = [text for text in listed(flag(submit, "args")) if not text.startswith("--task=")]
    assert "no task: set --task=NAME" in error_line(*arguments)


# One small VM


def test_a_vm_runs_once_and_shuts_down() -> None:
    found = printed("vm", "--worker_zone=europe-west6-a", "--machine_type=e2-small", "--reprocess=outdated,failed")
    (create,) = [command for command in found if command[1:4] == ["compute", "instances", "create"]]
    assert (flag(create, "zone"), flag(create, "machine-type")) == ("europe-west6-a", "e2-small")
    assert flag(create, "service-account") == WORKER
    (pair,) = listed(flag(create, "metadata"))
    script = pair.removeprefix("startup-script=").splitlines()
    assert (script[0], script[-1]) == ("#!/bin/bash", "shutdown -h now")
    docker = shlex.split(script[-2])
    assert docker[: docker.index(IMAGE) + 2] == [
        *("docker", "run", "--rm", "--log-driver=gcplogs", "--entrypoint=imagebeam", IMAGE, "classify"),
    ]
    assert "--reprocess=outdated,failed" in docker
    assert "--no-address" not in create
    (command,) = scheduled(found)
    assert flag(command, "uri").endswith(
        "/projects/my-project/zones/europe-west6-a/instances/imagebeam-utility-pole/start"
    )


def test_a_vm_can_use_another_network() -> None:
    whole = "projects/h/regions/r/subnetworks/s"
    for written, wanted in (("regions/europe-west6/subnetworks/s", "s"), (whole, whole)):
        found = printed("vm", "--use_public_ips=false", "--network=street", f"--subnetwork={written}")
        (create,) = [command for command in found if command[1:4] == ["compute", "instances", "create"]]
        assert {"--no-address", "--network=street", f"--subnet={wanted}"} <= set(create)


@given(st.dictionaries(st.sampled_from(["where", "query", "source"]), st.text("ab '\"$`\\\n~,;", max_size=12)))
def test_quotes_flags_for_the_startup_script(flags: dict[str, str]) -> None:
    wanted = schedule.container_command("classify", flags)
    script = schedule.startup_script(wanted, IMAGE)
    docker = script.partition("docker run ")[2].rpartition("\nshutdown")[0]
    words = shlex.split(docker)
    assert [words[2].removeprefix("--entrypoint="), *words[4:]] == wanted


# Files in Cloud Storage


def test_downloads_the_task_file_in_the_container(cloud: LocalCloud, here: Path) -> None:
    task = (ROOT / "transforms" / "tasks" / "data" / "tasks" / "image_quality.yaml").read_text(encoding="utf-8")
    bucket = storage.Client().create_bucket("scheduled-tasks")
    bucket.blob("mine.yaml").upload_from_string(task)
    bucket.blob("broken.yaml").upload_from_string(f"{task}\nnonsense: 1\n")
    said = {}
    for name in ("mine", "broken", "none"):
        with captured() as (_, err):
            line_of_run = [
                "classify",
                f"--task=gs://scheduled-tasks/{name}.yaml",
                "--source=none.t",
                "--results=answers",
            ]
            assert flex_template.run_command(line_of_run) == 2
        said[name] = err.getvalue()
    assert "dataset imagebeam-local.none does not exist" in said["mine"]  # after the task was read
    assert "nonsense" in said["broken"]
    assert "--task=gs://scheduled-tasks/none.yaml: object not found" in said["none"]
    found = printed("batch", "--task=gs://scheduled-tasks/mine.yaml")
    submit = next(command for command in found if command[1:4] == ["run", "jobs", "deploy"])
    assert submit[4] == "imagebeam-mine"
    assert (flag(submit, "command"), listed(flag(submit, "args"))[:3]) == (
        "python",
        ["-m", "imagebeam.pipeline.cli.flex_template", "classify"],
    )


def test_a_scheduled_batch_lane_prints_how_to_collect() -> None:
    code, _, err = run_cli(line("daily", "--lane=batch"))
    assert code == 0
    assert "imagebeam batch collect --work_dir=" in err


# Errors


@pytest.mark.parametrize(
    ("verb", "more", "said"),
    [
        ("daily", ["--max_cost_usd="], "set a budget such as --max_cost_usd=25, or --yes"),
        ("daily", ["--service_account_email="], "--service_account_email=imagebeam-worker@my-project.iam"),
        ("daily", ["--template="], "imagebeam schedule daily needs --template"),
        ("daily", ["--template=gs://b-b/t"], "write gs://bucket/path/name.json"),
        ("daily", ["--no_wait=true"], "a template does not wait for batch jobs"),
        ("daily", ["--schedule=every day"], "five fields"),
        ("daily", ["--region=europe-west"], "not a Google Cloud region"),
        ("daily", ["--work_dir=runs"], "use --work_dir=gs://bucket/path"),
        ("batch", ["--image="], "imagebeam schedule batch needs --image"),
        ("batch", ["--image=europe-docker.pkg.dev/p/i/x:latest"], "use a unique tag"),
        ("batch", ["--lane=online"], "imagebeam schedule batch creates batch jobs"),
        ("vm", ["--name=Bad_Name"], "lowercase letters"),
        ("vm", ["--task=utility_pol"], "utility_pole"),
        ("vm", ["--shedule=x"], "did you mean --schedule?"),
    ],
)
def test_rejects_invalid_flags_in_one_line(verb: str, more: list[str], said: str) -> None:
    assert said in error_line(*line(verb, *more))


def test_suggests_commands_and_jobs() -> None:
    assert "did you mean daily?" in error_line("schedule", "dayly")
    assert "did you mean classify?" in error_line("schedule", "vm", "clasify")
    assert run_cli(["schedule", "vm", "classify", *line("vm")[2:]]) == run_cli(line("vm"))


def test_accepts_a_digest() -> None:
    printed("vm", f"--image=europe-west6-docker.pkg.dev/p/i/imagebeam@sha256:{'a' * 64}")


# Documentation


def examples() -> list[tuple[str, str]]:
    """Commands of the page with what they print."""
    blocks = re.findall(r"^```console\n\$ (.*?)\n```", DOCS, re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        command, _, output = re.sub(r"\\\n\s*", "", block).partition("\n")
        found.append((command, output))
    return found


def test_the_documentation_shows_what_is_printed() -> None:
    assert {command.split()[2] for command, _ in examples()} == set(NEEDED)
    for command, output in examples():
        code, out, err = run_cli(shlex.split(command)[1:])
        assert code == 0, err
        assert out == output + "\n", command


def test_help_has_every_flag() -> None:
    _, out, _ = run_cli(["schedule", "--help"])
    for name in ("template", "image", "schedule", "time_zone", "name", "scheduler_account", "collect_schedule"):
        assert f"--{name}" in out
