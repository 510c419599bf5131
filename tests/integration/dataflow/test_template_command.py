"""``imagebeam template``: the commands for gcloud, and what is refused before gcloud is asked."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.jobs import run_cli
from support.paths import ROOT

from imagebeam.pipeline.dataflow import template_launch
from imagebeam.pipeline.dataflow.template_metadata import NO_PARAMETERS, NO_VALUES
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.setting import Group
from imagebeam.pipeline.run.embed_settings import JOBS

GUIDE = (ROOT / "docs" / "guides" / "dataflow.md").read_text(encoding="utf-8")
IMAGE = "europe-west6-docker.pkg.dev/my-project/images/imagebeam:1"
TEMPLATE = "gs://my-bucket/templates/classify.json"
BUILD = {"image": IMAGE, "template": TEMPLATE, "project": "my-project"}
LAUNCH = {
    "template": TEMPLATE,
    "project": "my-project",
    "region": "europe-west6",
    "task": "utility_pole",
    "source": "my_dataset.photos",
    "results": "answers",
    "work_dir": "gs://my-bucket/imagebeam",
    "run_id": "poles-1",
}
#: The same start of each job.
LAUNCHES: dict[str, dict[str, str]] = {"classify": LAUNCH, "embed": {**LAUNCH, "task": "", "dimension": "768"}}
AREA = '{"type":"Polygon","coordinates":[[[7,46],[8,46],[8,47],[7,46]]]}'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that notes what it is asked; it fails at what stands in the file `fails`."""
    notes = tmp_path / "asked"
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        f"notes = pathlib.Path({str(notes)!r})\n"
        "notes.open('a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"fails = pathlib.Path({str(tmp_path / 'fails')!r})\n"
        "sys.exit(7 if fails.exists() and fails.read_text() in sys.argv else 0)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return notes


def line(verb: str, base: dict[str, str], *more: str, job: str = "classify") -> list[str]:
    """A command line; what is given more takes the place of what is in `base`, and nothing leaves it out."""
    flags = dict(base)
    for argument in more:
        name, _, value = argument.removeprefix("--").partition("=")
        flags[name] = value
    return ["template", verb, job, *(f"--{name}={value}" for name, value in flags.items() if value)]


def asked(notes: Path) -> list[list[str]]:
    return [json.loads(text) for text in notes.read_text().splitlines()]


def printed(*more: str, base: dict[str, str] | None = None, job: str = "classify") -> list[list[str]]:
    code, out, err = run_cli(line("launch", base or LAUNCHES[job], "--dry_run=true", *more, job=job))
    assert code == 0, err
    return [shlex.split(text) for text in out.splitlines()]


def parameters(command: list[str]) -> dict[str, str]:
    """The parameters of a command, split as gcloud splits them."""
    found = {}
    for argument in command:
        if argument.startswith("--parameters="):
            text = argument.removeprefix("--parameters=")
            separator, text = (text[1], text[3:]) if text.startswith("^") else (",", text)
            (pair,) = text.split(separator)
            name, _, value = pair.partition("=")
            found[name] = value
    return found


def error_line(*arguments: str) -> str:
    code, out, err = run_cli(arguments)
    assert (code, out) == (2, "")
    (line_,) = err.splitlines()
    return line_


# Build


@pytest.mark.parametrize("job", JOBS)
def test_builds_the_image_then_the_template(gcloud: Path, job: str) -> None:
    code, _, _ = run_cli(line("build", BUILD, job=job))
    assert code == 0
    image, template = asked(gcloud)
    config = str(ROOT / "templates" / "cloudbuild.yaml")
    assert image == [
        *("builds", "submit", str(ROOT)),
        *(f"--config={config}", f"--substitutions=_IMAGE={IMAGE}", "--project=my-project"),
    ]
    metadata = str(ROOT / "templates" / f"{job}.json")
    assert template == [
        *("dataflow", "flex-template", "build", TEMPLATE, f"--image={IMAGE}", "--sdk-language=PYTHON"),
        *(f"--metadata-file={metadata}", "--project=my-project"),
    ]


def test_reuses_the_image_for_a_second_template(gcloud: Path) -> None:
    run_cli(line("build", BUILD, "--dry_run=true", job="embed"))
    assert run_cli(line("build", BUILD, "--reuse_image=true", job="embed"))[0] == 0
    (template,) = asked(gcloud)
    assert template[:4] == ["dataflow", "flex-template", "build", TEMPLATE]
    assert f"--metadata-file={ROOT / 'templates' / 'embed.json'}" in template
    assert f"--image={IMAGE}" in template


def test_dry_run_prints_the_commands(gcloud: Path) -> None:
    _, out, _ = run_cli(line("build", BUILD, "--dry_run=true"))
    assert not gcloud.exists()
    run_cli(line("build", BUILD))
    assert [shlex.split(text) for text in out.splitlines()] == [["gcloud", *command] for command in asked(gcloud)]


def test_does_not_write_a_template_without_its_image(gcloud: Path, tmp_path: Path) -> None:
    (tmp_path / "fails").write_text("submit")
    code, _, err = run_cli(line("build", BUILD))
    assert code == 3
    assert "gcloud builds submit" in err.splitlines()[-1]
    assert "failed (exit code 7)" in err.splitlines()[-1]
    assert len(asked(gcloud)) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--image="], "imagebeam template build needs --image"),
        (["--template="], "imagebeam template build needs --template"),
        (["--image=imagebeam"], "--image=imagebeam is not an image name with a tag: write REGION-docker.pkg.dev/"),
        (["--image=eu.pkg.dev/p/imagebeam"], "use a unique tag"),
        (["--image=eu.pkg.dev/p/imagebeam:latest"], "such as eu.pkg.dev/p/imagebeam:2026-11-21"),
        ([f"--image=eu.pkg.dev/p/imagebeam@sha256:{'0' * 64}"], "use a tag, not a digest"),
        (["--template=classify.json"], "--template=classify.json: Dataflow workers cannot read it"),
        (["--template=gs://my-bucket/classify"], "write gs://bucket/path/name.json"),
        (["--dry_run=perhaps"], "--dry_run takes true or false"),
        (["--region=us-central1"], "unknown flag --region"),
    ],
)
def test_rejects_invalid_build_flags_in_one_line(more: list[str], said: str) -> None:
    assert said in error_line(*line("build", BUILD, *more))


def test_reports_missing_gcloud_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    code, out, err = run_cli(line("build", BUILD))
    assert (code, out) == (2, "")
    assert err.startswith("imagebeam: gcloud is not installed, or not on the PATH: see https://cloud.google.com/sdk")


# Launch


@pytest.mark.parametrize("job", JOBS)
def test_launches_with_parameters_and_environment(gcloud: Path, job: str) -> None:
    code, _, err = run_cli(line("launch", LAUNCHES[job], "--max_cost_usd=25", job=job))
    assert code == 0
    assert err.splitlines()[-1] == "launched; the summary will be in gs://my-bucket/imagebeam/runs/poles-1/summary.json"
    (command,) = asked(gcloud)
    assert command[:4] == ["dataflow", "flex-template", "run", "imagebeam-poles-1"]
    assert set(command[4:]) == {
        f"--template-file-gcs-location={TEMPLATE}",
        "--project=my-project",
        "--region=europe-west6",
        "--temp-location=gs://my-bucket/imagebeam/temp",
        "--staging-location=gs://my-bucket/imagebeam/staging",
        "--num-workers=1",
        "--max-workers=1",
        "--additional-user-labels=imagebeam-run=poles-1",
        "--parameters=max_cost_usd=25",
        "--parameters=results=answers",
        "--parameters=run_id=poles-1",
        "--parameters=source=my_dataset.photos",
        *{
            "classify": ["--parameters=task=utility_pole"],
            "embed": ["--parameters=dimension=768", "--parameters=job=embed"],
        }[job],
        "--parameters=work_dir=gs://my-bucket/imagebeam",
    }


def test_maps_beam_options_to_gcloud_flags() -> None:
    (command,) = printed(
        *("--job_name=my-job", "--num_workers=2", "--worker_machine_type=n2-standard-2", "--use_public_ips=false"),
        *("--network=street", "--subnetwork=regions/europe-west6/subnetworks/street", "--labels=team=maps"),
        *("--service_account_email=workers@my-project.iam.gserviceaccount.com", "--experiments=one,two"),
        *("--number_of_worker_harness_threads=8", "--dataflow_service_options=enable_prime"),
    )
    assert command[4] == "my-job"
    assert set(command) >= {
        "--num-workers=2",
        "--max-workers=2",
        "--worker-machine-type=n2-standard-2",
        "--disable-public-ips",
        "--network=street",
        "--subnetwork=regions/europe-west6/subnetworks/street",
        "--service-account-email=workers@my-project.iam.gserviceaccount.com",
        "--additional-user-labels=team=maps,imagebeam-run=poles-1",
        "--additional-experiments=one,two",
    }
    (through,) = [text for text in command if text.startswith("--additional-pipeline-options=")]
    assert set(through.partition("=")[2].split(",")) == {
        "number_of_worker_harness_threads=8",
        "dataflow_service_options=enable_prime",
    }
    assert not {"num_workers", "team", "experiments"} & parameters(command).keys()


def test_a_batch_launch_prints_how_to_collect(gcloud: Path) -> None:
    code, _, err = run_cli(line("launch", LAUNCH, "--lane=batch", "--batch_lines=5000", "--max_cost_usd=25"))
    assert code == 0, err
    assert "imagebeam batch collect --work_dir=gs://my-bucket/imagebeam" in err.splitlines()[-1]
    (command,) = asked(gcloud)
    assert parameters(command)["lane"] == "batch"
    assert parameters(command)["batch_lines"] == "5000"


def test_keeps_a_value_with_commas_as_one_parameter() -> None:
    (command,) = printed("--reprocess=failed,outdated", "--where=city IN ('Bern', 'Thun') AND ~level > 1")
    assert "--parameters=^~^reprocess=failed,outdated" in command
    assert "--parameters=^|^where=city IN ('Bern', 'Thun') AND ~level > 1" in command


def test_launch_accepts_deprecated_names() -> None:
    (command,) = printed("--due=outdated", "--group_size=5")
    assert {"--parameters=due=outdated", "--parameters=unit_batch_size=5"} <= set(command)


def test_passes_settings_of_the_config_file(here: Path) -> None:
    (here / "imagebeam.yaml").write_text(
        "results: answers\nsource: my_dataset.photos\nregion: europe-west4\nlimit: 9\n"
    )
    (command,) = printed(base={**LAUNCH, "results": "", "source": "", "region": "", "limit": "7"})
    assert "--region=europe-west4" in command
    given_ = parameters(command)
    assert (given_["results"], given_["source"], given_["limit"]) == ("answers", "my_dataset.photos", "7")
    assert "config" not in given_


def test_copies_local_files_to_the_work_directory(here: Path) -> None:
    (here / "area.json").write_text(AREA)
    (here / "tasks").mkdir()
    run_cli(["tasks", "new", "my_poles"])
    *copies, command = printed("--polygon_file=area.json", "--task=my_poles")
    below = "gs://my-bucket/imagebeam/launches/poles-1"
    assert copies == [
        ["gcloud", "storage", "cp", str(here / "tasks" / "my_poles.yaml"), f"{below}/task.yaml"],
        ["gcloud", "storage", "cp", str(here / "area.json"), f"{below}/polygon_file.json"],
    ]
    assert parameters(command)["task"] == f"{below}/task.yaml"
    assert parameters(command)["polygon_file"] == f"{below}/polygon_file.json"


def test_passes_a_prompt_and_copies_its_schema(here: Path) -> None:
    (here / "answer.json").write_text('{"type": "object", "properties": {"kind": {"type": "string"}}}')
    prompt = "What is this, a pole, or a sign?"
    *copies, command = printed(f"--prompt={prompt}", "--schema=answer.json", "--task=contents")
    below = "gs://my-bucket/imagebeam/launches/poles-1"
    assert copies == [["gcloud", "storage", "cp", str(here / "answer.json"), f"{below}/schema.json"]]
    given_ = parameters(command)
    assert (given_["task"], given_["prompt"], given_["schema"]) == ("contents", prompt, f"{below}/schema.json")


def test_passes_files_in_cloud_storage_unchanged() -> None:
    (command,) = printed("--query_file=gs://my-bucket/q.sql", "--source=", "--task=gs://my-bucket/tasks/poles.yaml")
    given_ = parameters(command)
    assert given_["query_file"] == "gs://my-bucket/q.sql"
    assert given_["task"] == "gs://my-bucket/tasks/poles.yaml"
    assert "query" not in given_


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--template="], "imagebeam template launch needs --template"),
        (["--temperature=1"], "unknown flag --temperature"),
        (["--max_rmp=5"], "unknown flag --max_rmp; did you mean --max_rpm?"),
        (["--results="], "no results"),
        (["--source="], "no source"),
        (["--query=SELECT 1"], "--source and --query are both given"),
        (["--work_dir=runs"], "/runs is a local directory"),
        (["--work_dir="], "use --work_dir=gs://bucket/path"),
        (["--region="], "no region: set --region"),
        (["--region=europe-west66"], "--region=europe-west66 is not a Google Cloud region; did you mean europe-west6?"),
        (["--temp_location=/tmp"], "use --temp_location=gs://bucket/path"),
        (["--polygon_file=missing.json"], "--polygon_file=missing.json: no such file"),
        (["--models_file=missing.yaml"], "missing.yaml"),
        (["--config=gs://my-bucket/imagebeam.yaml"], "imagebeam.yaml is read on this machine"),
        (["--direct_num_workers=3"], "Dataflow takes the number of workers from the job's environment"),
        (["--runner=FnApiRunner"], "a template always runs on Dataflow"),
        (["--sdk_container_image=other"], "workers use the image of the template"),
        (["--yes=1"], "--yes takes true or false, not '1'"),
        (["--limit=many"], "--limit takes a whole number"),
        (["--max_num_workers=3", "--num_workers=2"], "--num_workers=2 and --max_num_workers=3 differ"),
    ],
)
def test_rejects_invalid_launch_flags_in_one_line_without_gcloud(
    gcloud: Path, job: str, more: list[str], said: str
) -> None:
    assert said in error_line(*line("launch", LAUNCHES[job], *more, job=job))
    assert not gcloud.exists()


@pytest.mark.parametrize(
    ("job", "more", "said"),
    [
        ("classify", ["--task=utility_pol"], "task utility_pol does not exist"),
        ("classify", ["--task="], "no task: set --task=NAME"),
        ("classify", ["--lane=batch", "--transport=inline"], "--lane=batch sends images by URI"),
        ("classify", ["--lane=batch", "--location=eu"], "batch jobs run at global or in a region"),
        ("classify", ["--batch_lines=7"], "--batch_lines is for --lane=batch; this run's lane is online"),
        (
            "classify",
            ["--no_wait=true"],
            "--no_wait is not a parameter of this template: a template does not wait",
        ),
        ("embed", ["--task=utility_pole"], "unknown flag --task"),
        ("embed", ["--lane=sql"], "--lane=sql: BigQuery calls the model, so Dataflow workers would only wait"),
        ("embed", ["--lane=sql", "--rows_per_job=9"], "imagebeam embed --lane=sql"),
        ("embed", ["--vector_index=true"], "run imagebeam embed --vector_index later"),
        ("embed", ["--dimension=4000"], "4000"),
        ("embed", ["--padding=0.1"], "--padding has no effect without --crop=bbox"),
    ],
)
def test_rejects_invalid_launch_flags_of_one_job(gcloud: Path, job: str, more: list[str], said: str) -> None:
    assert said in error_line(*line("launch", LAUNCHES[job], *more, job=job))
    assert not gcloud.exists()


@pytest.mark.parametrize("word", ["buidl", "clasify"])
def test_suggests_commands_and_jobs(word: str) -> None:
    arguments = ["template", word] if word == "buidl" else ["template", "metadata", word]
    assert "did you mean" in error_line(*arguments)


@pytest.mark.parametrize("job", JOBS)
def test_metadata_matches_the_checked_in_file(job: str) -> None:
    code, out, _ = run_cli(["template", "metadata", job])
    assert code == 0
    assert out == (ROOT / "templates" / f"{job}.json").read_text(encoding="utf-8")


def test_classify_is_the_default_job() -> None:
    assert run_cli(["template", "metadata"]) == run_cli(["template", "metadata", "classify"])


def test_help_lists_commands_and_jobs() -> None:
    code, out, _ = run_cli(["template", "--help"])
    assert code == 0
    assert all(word in out for word in ("build", "launch", "metadata", *JOBS, "--dry_run"))


def test_commands_of_the_guide_run_gcloud(gcloud: Path, here: Path) -> None:
    (here / "imagebeam.yaml").write_text(
        "project: my-project\nresults: image_answers\nsource: my_dataset.my_table\nwork_dir: gs://my-bucket/imagebeam\n"
    )
    classify = [text for text in GUIDE.splitlines() if text.startswith("imagebeam template ")]
    assert [text.split()[2] for text in classify] == ["build", "launch"]
    place = "--template=gs://my-bucket/imagebeam/embed.json"
    image = "--image=europe-west6-docker.pkg.dev/my-project/images/imagebeam:0.1.0"
    embed = [
        f"imagebeam template build embed {image} {place} --reuse_image",
        (
            f"imagebeam template launch embed {place} --region=europe-west6 --dimension=768 "
            "--work_dir=gs://my-bucket/imagebeam --max_cost_usd=25"
        ),
    ]
    for text in (*classify, *embed):
        code, _, err = run_cli(shlex.split(text)[1:])
        assert code == 0, err
    assert [command[:3] for command in asked(gcloud)] == [
        ["builds", "submit", str(ROOT)],
        *[["dataflow", "flex-template", "build"], ["dataflow", "flex-template", "run"]] * 2,
    ]
    # A template that is told where it is built is found where it is launched.
    _, *pairs = asked(gcloud)
    for build, run in (pairs[:2], pairs[2:]):
        assert f"--template-file-gcs-location={build[3]}" in run


# All values


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=30), min_size=1))
def test_gcloud_parses_lists_as_given(parts: list[str]) -> None:
    assume(not set("~|;!#%@") <= set("".join(parts)))
    text = template_launch.gcloud_list(parts)
    separator, rest = (text[1], text[3:]) if text.startswith("^") else (",", text)
    assert rest.split(separator) == parts


@pytest.mark.parametrize(
    ("job", "flag"),
    [(job, flag) for job, made in JOBS.items() for flag in made.flags.values() if flag.name not in NO_PARAMETERS],
    ids=lambda value: getattr(value, "name", value),
)
def test_passes_every_flag_of_the_job_as_a_parameter(job: str, flag: Any, here: Path) -> None:
    contents = {"polygon_file": AREA, "query_file": "SELECT 1", "config": "limit: 3\n"}
    models = ROOT / "transforms" / "tasks" / "data" / "models.yaml"
    more = {flag.name: flag.example}
    if flag.name in contents:
        (here / flag.example).write_text(contents[flag.name])
    if flag.name == "models_file":
        more = {"models_file": str(models)}
    if flag.name in {"query", "query_file"}:
        more["source"] = ""
    if flag.name in {"prompt", "schema"}:
        (here / "answer.yaml").write_text("{type: object, properties: {kind: {type: string}}}")
        more |= {"task": "contents", "prompt": "What is in this image?"}
    if flag.name == "profile":
        more[flag.name] = "legacy"
    if flag.name == "max_images":
        more["unit"] = "asset"
    if flag.group is Group.BATCH:
        more |= {"lane": "batch", "location": "us-central1"}
    if flag.name in {"batch_dataset", "batch_output_table"} and job == "classify":
        more["batch_destination"] = "bigquery"
    if flag.name in {"batch_source", "batch_destination"} and job == "embed":
        more[flag.name] = "gcs"
    if flag.name == "lane":
        more["lane"] = next(choice for choice in flag.choices if (flag.name, choice) not in NO_VALUES)
    if flag.name == "model" and job == "embed":
        more["dimension"] = ""
    if flag.name == "padding":
        more["crop"] = "bbox"
    *copies, command = printed(*(f"--{name}={value}" for name, value in more.items()), job=job)
    if flag.name == "config":
        assert parameters(command)["limit"] == "3"
    elif copies:
        assert parameters(command)[flag.name] == copies[0][-1]
    else:
        value = flag_values.read(flag, parameters(command)[flag.name], where=flag.name)
        assert value == flag_values.read(JOBS[job].flags[flag.name], more[flag.name], where=flag.name)
