"""Models of any name: tuned models in both lanes, models that no file has, prices, and answers without an answer."""

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from support.batch_runs import batch, fault, work_dir
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud

REGION = "us-central1"
#: A tuned model whose version 2 is deployed to the endpoint, and one that is not deployed.
MODEL, UNDEPLOYED, ENDPOINT = "models/8150", "models/8151", "endpoints/4711"
PRICED = ("--price_as=gemini-2.5-flash",)


@pytest.fixture(scope="module")
def source(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("models"), 3)


@pytest.fixture
def job(source: Job) -> Job:
    """The shared source, and a new results dataset."""
    return dataclasses.replace(source, own_results=f"models_{secrets.token_hex(4)}")


def resource(job: Job, name: str, location: str = REGION) -> str:
    return f"projects/{job.cloud.project}/locations/{location}/{name}"


def job_models(job: Job) -> set[str]:
    return {each["model"] for each in job.cloud.batch_jobs()}


def error_of(job: Job, *flags: str, command: str = "classify", task: str = "image_quality") -> str:
    code, out, err = run_cli([command, *job.arguments(*flags, task=task)[1:]])
    assert (code, out) == (2, ""), err
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", [MODEL, pytest.param(f"{MODEL}@2", marks=pytest.mark.long), ENDPOINT])
def test_tuned_model_is_called_at_its_endpoint(job: Job, name: str) -> None:
    summary = job.run(f"--model={resource(job, name)}", *PRICED)
    assert (summary["exit_code"], summary["counted"]["ok"]) == (0, 3), summary["err"]
    assert summary["model"] == resource(job, name)
    (row,) = job.query("SELECT SUM(cost_usd) AS usd, COUNTIF(cost_usd > 0) AS priced FROM {results}.outcomes")
    assert row["priced"] == 3
    assert str(row["usd"]) == summary["recorded"]["cost_usd"]
    assert "not in models.yaml" not in summary["err"]


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        (MODEL, MODEL),
        pytest.param(UNDEPLOYED, UNDEPLOYED, marks=pytest.mark.long),
        pytest.param(f"{MODEL}@1", f"{MODEL}@1", marks=pytest.mark.long),
        (ENDPOINT, f"{MODEL}@2"),
    ],
)
def test_batch_job_names_the_tuned_model_of_an_endpoint(job: Job, name: str, sent: str) -> None:
    summary = batch(job, f"--model={resource(job, name)}", *PRICED)
    assert (summary["exit_code"], summary["counted"]["ok"]) == (0, 3), summary["err"]
    assert job_models(job) == {resource(job, sent)}
    assert summary["model"] == resource(job, name)


@pytest.mark.long
def test_location_comes_from_the_model_of_a_task_file(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "tuned.yaml"
    path.write_text(f"name: tuned\nprompt: What is it?\nmodel: {resource(job, MODEL)}\n")
    code, out, err = run_cli(["tasks", "check", str(path), *PRICED])
    assert (code, err) == (0, "")
    assert "out + 500 of thinking: $0.002543 online" in out
    code, out, err = run_cli(job.arguments(*PRICED, task=str(path)))
    assert code == 0, err
    assert f"{resource(job, MODEL)} at {REGION}, online" in err
    assert f"but model {resource(job, MODEL)} is in {REGION}" in error_of(job, "--location=eu", task=str(path))


@pytest.mark.long
def test_fallback_lane_of_a_batch_run_calls_the_endpoint(job: Job) -> None:
    fault(job, {"stuck": "PENDING"})
    flags = ("--batch_deadline_s=1", "--batch_fallback=online")
    summary = batch(job, f"--model={resource(job, MODEL)}", *PRICED, *flags)
    assert (summary["exit_code"], summary["counted"]["ok"]) == (0, 3), summary["err"]
    assert job_models(job) <= {resource(job, MODEL)}, "none if the deadline is over before the job is created"
    assert len(job.calls()) == 3
    line = error_of(job, f"--model={resource(job, UNDEPLOYED)}", "--lane=batch", f"--work_dir={work_dir(job)}", *flags)
    assert "models/8151 is not deployed to an endpoint" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model={undeployed}"], "is not deployed to an endpoint, which calls need; --lane=batch, or deploy it"),
        (["--model={model}@1"], "models/8150@1 is not deployed to an endpoint"),
        (
            ["--model={model}@7"],
            "models/8150@7 does not exist, or you cannot access it; check --model (gcloud",
        ),
        (["--model={model}", "--location=eu"], "--location=eu, but model {model} is in us-central1: leave it out"),
        (["--model={model}", "--lane=flex"], "the flex lane does not support {model}"),
        (
            ["--model={model}", "--max_cost_usd=1"],
            "of {model} in lane online is not known, so its cost cannot be",
        ),
        (["--model={model}", "--price_as=gemini-9"], "--price_as=gemini-9: models.yaml (shipped) has no price of"),
        (["--model=gemini-9"], "model gemini-9 does not exist at location global"),
        (["--model=gemini 9"], "'gemini 9' is not the name of a model"),
    ],
)
def test_mistakes_about_models_are_one_line_before_any_paid_call(job: Job, flags: list[str], message: str) -> None:
    names = {"model": resource(job, MODEL), "undeployed": resource(job, UNDEPLOYED)}
    assert message.format(**names) in error_of(job, *(flag.format(**names) for flag in flags))
    assert job.calls() == {}


def test_endpoint_with_several_models_needs_the_name_of_one(job: Job) -> None:
    flags = ("--lane=batch", f"--work_dir={work_dir(job)}")
    line = error_of(job, f"--model={resource(job, 'endpoints/4712')}", *flags)
    assert "endpoints/4712 has 2 models" in line
    assert f"--model={resource(job, 'models/8152@1')}" in line


@pytest.mark.long
def test_model_that_no_file_has_runs_with_one_warning(job: Job) -> None:
    flags = ("--model=google/gemini-2.5-pro", "--location=us-central1")
    code, out, err = run_cli(job.arguments(*flags))
    assert code == 0, err
    assert err.count("model gemini-2.5-pro is not in models.yaml (shipped)") == err.count("warning") == 1
    assert "cost     unknown" in out
    (row,) = job.query(
        "SELECT COUNT(*) AS answers, MAX(model) AS model, COUNT(cost_usd) AS priced FROM {results}.outcomes "
        "WHERE status = 'OK'"
    )
    assert row == {"answers": 3, "model": "gemini-2.5-pro", "priced": 0}
    other = dataclasses.replace(job, own_results=f"{job.own_results}_plan")
    code, out, err = run_cli(["plan", "--json", *other.arguments(*flags)[1:]])
    assert code == 0, err
    plan = json.loads(out)
    assert {lane["usd"] for lane in plan["lanes"]} == {None}
    assert sum("is not in models.yaml (shipped)" in note for note in plan["notes"]) == 1


def test_preflight_skips_what_needs_a_deployed_model(job: Job) -> None:
    flags = (f"--model={resource(job, UNDEPLOYED)}", "--lane=batch", f"--work_dir={work_dir(job)}", *PRICED)
    code, out, err = run_cli(["preflight", "--json", *job.arguments(*flags)[1:]])
    assert code == 0, out + err
    results = {each["name"]: each for each in json.loads(out)["findings"]}
    assert results["model"]["state"] == "ok"
    for name in ("probe call", "batch service agent"):
        assert (results[name]["state"], results[name]["cause"]) == (
            "skipped",
            "the tuned model is not deployed, so it cannot be called; batch jobs can use it",
        )
    assert job.calls() == {}


def own_models(directory: Path, document: dict[str, Any]) -> str:
    path = directory / "mine.yaml"
    path.write_text(json.dumps(document))
    return f"--models_file={path}"


@pytest.mark.long
def test_model_without_a_price_has_unknown_cost_everywhere(job: Job, tmp_path: Path) -> None:
    name = f"--model={resource(job, ENDPOINT)}"
    code, out, err = run_cli(job.arguments(name))
    assert code == 0, err
    assert err.count("is not in models.yaml (shipped)") == 1
    assert "cost     unknown, the model has no price" in err
    assert "cost     unknown: the model has no price; use --price_as=MODEL" in out
    assert "$" not in out
    (row,) = job.query(
        "SELECT COUNTIF(status = 'OK' AND cost_usd IS NULL AND prompt_tokens > 0) AS answers, "
        "(SELECT LOGICAL_AND(cost_usd IS NULL) FROM {results}.runs WHERE event = 'end') AS unknown "
        "FROM {results}.outcomes"
    )
    assert row == {"answers": 3, "unknown": True}
    assert job.run(name)["recorded"]["cost_usd"] == "0", "a run without calls costs nothing"
    entry = own_models(tmp_path, {"models": {resource(job, ENDPOINT): {"like": "gemini-2.5-flash"}}})
    other = dataclasses.replace(job, own_results=f"{job.own_results}_priced")
    priced = other.run(name, entry, "--max_calls=3")
    assert (priced["exit_code"], priced["counted"]["ok"]) == (0, 3), priced["err"]
    assert float(priced["recorded"]["cost_usd"]) > 0


def test_cap_in_dollars_works_with_the_price_of_another_model(job: Job) -> None:
    flags = (f"--model={resource(job, ENDPOINT)}", *PRICED, "--max_cost_usd=0.005")
    summary = job.run(*flags)
    assert summary["exit_code"] in (0, 4), summary["err"]
    assert 0 < float(summary["recorded"]["cost_usd"]) <= 0.005


TRUNCATED = """
name: truncated
model: gemini-2.5-flash
prompt: What is in this image?
generation: {temperature: 0.2, max_output_tokens: 200}
"""


def test_settings_of_the_documentation_are_warned_about_and_answered_on_the_second_attempt(
    job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "truncated.yaml"
    path.write_text(TRUNCATED)
    code, out, _ = run_cli(["tasks", "check", str(path)])
    assert code == 0
    assert "generation.max_output_tokens=200 is too small for model gemini-2.5-flash" in out
    summary = job.run("--max_cost_usd=0.03", task=str(path))
    assert summary["err"].count("generation.max_output_tokens=200 is too small") == 1
    assert (summary["exit_code"], summary["counted"]["ok"], summary["counted"]["calls"]) == (0, 3, 6)
    assert 0 < float(summary["recorded"]["cost_usd"]) < 0.03


def test_run_without_any_answer_ends_with_exit_code_5(job: Job) -> None:
    job.cloud.faults(vertex={"rules": [{"do": "finish", "reason": "MAX_TOKENS"}]})
    code, out, err = run_cli(job.arguments())
    assert code == 5, err
    assert out.splitlines()[-1] == "NO UNIT WAS ANSWERED: all 3 failed with INVALID_ANSWER/TRUNCATED"
    job.cloud.faults(vertex={})
    again = job.run()
    assert (again["exit_code"], again["counted"]["calls"], again["problems"]) == (0, 0, [])
