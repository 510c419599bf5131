"""A run without a task file: prompt and schema on the command line, in every lane and command."""

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.batch_runs import batch
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud

PROMPT = "--prompt=What is in this image?"
SCHEMA = {"type": "object", "properties": {"kind": {"type": "string", "enum": ["pole", "sign"]}}, "required": ["kind"]}


@pytest.fixture(scope="module")
def source(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("prompt"), 3)


@pytest.fixture
def job(source: Job) -> Job:
    """The shared source, and a new results dataset."""
    return dataclasses.replace(source, own_results=f"prompt_{secrets.token_hex(4)}")


def versions(job: Job) -> list[dict[str, Any]]:
    rows = job.query("SELECT version, TO_JSON_STRING(definition) AS definition FROM {results}.task_versions")
    return [{**row, "definition": json.loads(row["definition"])} for row in rows]


@pytest.mark.long
def test_text_answers_are_versioned_like_those_of_a_file(job: Job, tmp_path: Path) -> None:
    first = job.run(PROMPT, task="contents")
    assert (first["exit_code"], first["counted"]["ok"], first["task"]) == (0, 3, "contents"), first["err"]
    rows = job.query("SELECT text, _version FROM {results}.contents")
    assert len(rows) == 3
    assert all(row["text"] and row["_version"] == first["version"] for row in rows)
    (recorded,) = versions(job)
    assert (recorded["version"], recorded["definition"]["prompt"]) == (first["version"], "What is in this image?")
    output = tmp_path / "contents.csv"
    code, _, err = run_cli(["export", "--task=contents", f"--results={job.results}", f"--output={output}"])
    assert code == 0, err
    assert output.read_text().count(rows[0]["text"]) >= 1
    file = tmp_path / "contents.yaml"
    file.write_text(yaml.safe_dump({"name": "contents", "prompt": "What is in this image?"}))
    again = job.run(task=str(file))
    assert (again["exit_code"], again["version"], again["counted"]["calls"]) == (0, first["version"], 0)
    changed = job.run("--prompt=What is it?", task="contents")
    assert changed["version"] != first["version"]
    assert changed["source"]["outdated"] == 3


def test_schema_gives_columns_in_the_batch_lane(job: Job, tmp_path: Path) -> None:
    schema = tmp_path / "answer.json"
    schema.write_text(json.dumps(SCHEMA))
    summary = batch(job, PROMPT, f"--schema={schema}", task="kinds")
    assert (summary["exit_code"], summary["counted"]["ok"]) == (0, 3), summary["err"]
    assert {row["kind"] for row in job.query("SELECT kind FROM {results}.kinds")} <= {"pole", "sign"}
    (recorded,) = versions(job)
    assert recorded["definition"]["schema"]["properties"]["kind"]["enum"] == ["pole", "sign"]


def test_plan_and_preflight_take_the_prompt(job: Job) -> None:
    arguments = job.arguments(PROMPT, task="contents")[1:]
    code, out, err = run_cli(["plan", "--json", *arguments])
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["task"], plan["calls"]) == ("contents", 3)
    code, out, err = run_cli(["preflight", "--json", "--no_probe", *arguments])
    assert code == 0, out + err
    assert f"contents, version {plan['version']}" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [PROMPT, "--task=describe"],
            "--prompt and task describe (shipped) are both named describe: use another --task",
        ),
        ([PROMPT], "--prompt needs a name for its answers: set --task=NAME, such as --task=contents"),
        (
            ["--task=describe", "--schema=a.json"],
            "--schema is for --prompt: a task file has its own schema; leave it out",
        ),
    ],
)
def test_conflicts_are_one_line(job: Job, flags: list[str], message: str) -> None:
    rest = [flag for flag in job.arguments() if not flag.startswith("--task=")]
    code, out, err = run_cli([*rest, *flags])
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert job.calls() == {}
