"""``imagebeam plan`` on the local Google Cloud: it calls no model, and its estimate matches the run."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.cloud import bigquery
from support.batch_runs import batch_arguments
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.transforms.tasks import catalog

SHIPPED = Path(catalog.__file__).parent / "data"


def planned(arguments: list[str], *more: str) -> dict[str, Any]:
    """``imagebeam plan --json`` with the flags of a command that has its name in front."""
    code, out, err = run_cli(["plan", *arguments, *more, "--json"])
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def lanes(plan: dict[str, Any]) -> dict[str, Any]:
    return {lane["lane"]: lane for lane in plan["lanes"]}


def embed_arguments(job: Job, *more: str) -> list[str]:
    work = f"--work_dir={job.directory / 'runs'}"
    return ["embed", f"--source={job.source}", f"--results={job.results}", work, "--dimension=64", *more]


def calls(job: Job) -> dict[str, Any]:
    """Counters of Vertex AI since the last reset, free calls included."""
    found: dict[str, Any] = job.cloud.counters().get("vertex", {})
    return found


def datasets() -> set[str]:
    return {dataset.dataset_id for dataset in bigquery.Client().list_datasets()}


def changed_task(directory: Path) -> Path:
    text = (SHIPPED / "tasks" / "image_quality.yaml").read_text()
    path = directory / "image_quality.yaml"
    path.write_text(text.replace("prompt: |\n", "prompt: |\n  Be strict.\n", 1))
    return path


@pytest.fixture(scope="module")
def street(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A smaller dataset like that of ``imagebeam local demo``."""
    build_dataset(cloud.url, cloud.project, units=100, seed=0)
    return Job(cloud, "imagery_insights___us", tmp_path_factory.mktemp("street"), [], own_results="plan_street")


@pytest.fixture(scope="module")
def few(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("few"), [{}, {}, {"asset_type": "BENCH"}])


@pytest.mark.long
def test_a_plan_of_the_demo_dataset_matches_the_run(street: Job, cloud: LocalCloud, tmp_path: Path) -> None:
    source = "--source=imagery_insights___us.latest_observations"
    first = planned(street.arguments(source))
    assert calls(street) == {}, "nothing is called"
    assert street.results not in datasets(), "nothing is written"
    assert (first["units"]["remaining_new"], first["units"]["callable_units"], first["changed"]) == (100, 98, None)

    ran = street.run(source)
    real = Decimal(ran["recorded"]["cost_usd"])
    assert abs(Decimal(lanes(first)["online"]["usd"]) - real) <= real * Decimal("0.05")
    # One image is named .jpg and is a PNG: it is rejected, not billed, and sent again. The sample shows it.
    look = {"units": 98, "calls": 99, "repeated": 1, "failing": {"NOT_FOUND": 1}, "refused": None}
    assert first["look"] == look, "the first bytes do not show that one is broken further down"
    assert first["calls"] == ran["counted"]["calls"] == 99

    # After a change of the prompt, the estimate uses the answers of the previous version.
    task = str(changed_task(tmp_path))
    changed = planned(street.arguments(source, task=task))
    assert changed["changed"]["fields"] == ["prompt"]
    assert changed["changed"]["since"] == ran["version"]
    assert (changed["units"]["outdated"], changed["units"]["remaining_new"]) == (96, 4)
    code, text, _ = run_cli(["plan", *street.arguments(source, task=task)])
    assert code == 0
    assert f"changed  prompt since version {ran['version']}" in text
    assert "96 outdated, about $0.04 to process again (--reprocess=outdated); remaining now: 4 new" in text

    second = planned(street.arguments(source, "--reprocess=outdated", task=task))
    ran = street.run(source, "--reprocess=outdated", task=task)
    real = Decimal(ran["recorded"]["cost_usd"])
    assert abs(Decimal(lanes(second)["online"]["usd"]) - real) <= real * Decimal("0.01")
    assert abs(Decimal(changed["changed"]["usd"]) - real) <= real * Decimal("0.01")
    assert second["calls"] == ran["counted"]["calls"]
    assert "98 units" in second["tokens"]["basis"]


def test_plans_without_images_that_cannot_be_read(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 3)
    cloud.faults(access={"denied": [{"permission": "storage.objects.get"}]})
    plan = planned(job.arguments())
    assert "cannot read gs://" in plan["look"]["refused"]
    assert plan["calls"] == 3
    cloud.reset()
    assert planned(job.arguments(), "--sample_images=0")["look"] is None
    assert planned(job.arguments(), "--sample_images=2")["look"]["units"] == 2


@pytest.mark.long
def test_unreadable_inline_images_make_no_call(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{}, {"data": None}, {}])
    assert planned(job.arguments("--transport=inline"))["calls"] == 2
    assert planned(job.arguments("--transport=uri"))["calls"] == 3
    assert job.run("--transport=inline")["counted"]["calls"] == 2


@pytest.mark.long
def test_notes_ignored_settings_and_reprocesses_nothing(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 2)
    task = tmp_path / "look.yaml"
    task.write_text("name: look\nprompt: What is it?\n")
    ran = job.run(task=str(task))
    task.write_text("name: look\nprompt: What is it?\ngeneration: {temperature: 0.2}\n")
    plan = planned(job.arguments(task=str(task)))
    assert (plan["version"], plan["changed"]) == (ran["version"], None)
    assert (plan["units"]["callable_units"], plan["units"]["outdated"]) == (0, 0)
    warning = "model gemini-3.5-flash-lite ignores generation.temperature: not sent, not part of the version"
    assert warning in plan["notes"]
    code, _, err = run_cli(job.arguments(task=str(task)))
    assert code == 0
    assert f"warning: {warning}" in err


def test_plans_assets_with_their_actual_images(cloud: LocalCloud, tmp_path: Path) -> None:
    rows = [{"asset_id": f"t1:{index}"} for index in (0, 0, 0, 1, 1, 2, 3, 3)]
    rows[-1]["gcs_uri"] = "https://example.com/a.jpg"
    job = make_job(cloud, tmp_path, rows)
    plan = planned(job.arguments("--unit=asset", "--max_images=2", task="utility_pole"))
    assert plan["images"] | {"tokens_each": 560} == {
        "total": 5, "per_unit": 1.667, "most": 2, "tokens_each": 560, "media_resolution": "medium",
    }  # fmt: skip
    assert (plan["units"]["remaining"], plan["calls"]) == (4, 3), "one asset has an image without URI"
    ran = job.run("--unit=asset", "--max_images=2", task="utility_pole")
    real = Decimal(ran["recorded"]["cost_usd"])
    assert ran["counted"]["calls"] == plan["calls"]
    assert abs(Decimal(lanes(plan)["online"]["usd"]) - real) <= real * Decimal("0.05")


@pytest.mark.long
def test_answers_of_a_probe_are_not_paid_again(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{"gcs_uri": None}, *[{} for _ in range(11)]])
    plan = planned(job.arguments(), "--probe=5")
    assert calls(job)["calls"] == 5
    assert (plan["probe"]["calls"], plan["probe"]["ok"], plan["probe"]["stop"]) == (5, 5, None)
    assert (plan["units"]["already_done"], plan["units"]["remaining"], plan["calls"]) == (5, 7, 6)
    assert "5 units of this version" in plan["tokens"]["basis"]
    recorded = job.query("SELECT SUM(cost_usd) AS usd, COUNT(*) AS units FROM {results}.outcomes WHERE status = 'OK'")
    assert (Decimal(plan["probe"]["usd"]), recorded[0]["units"]) == (recorded[0]["usd"], 5)
    state = job.query("SELECT state FROM {results}.runs_history")
    assert [row["state"] for row in state] == ["DONE"]

    ran = job.run()
    assert (ran["source"]["already_done"], ran["counted"]["calls"], ran["exit_code"]) == (5, plan["calls"], 0)
    assert sorted(job.calls().values()) == [1] * 11, "no image was paid twice"
    code, text, _ = run_cli(["plan", *job.arguments("--probe=3")])
    assert code == 0
    assert "note     no remaining unit has an image: nothing was probed" in text
    assert calls(job)["calls"] == 11

    other = planned(job.arguments("--reprocess=outdated", task=str(changed_task(tmp_path))), "--probe=2")
    assert (other["changed"]["fields"], other["probe"]["ok"]) == (["prompt"], 2)
    assert other["units"]["remaining_outdated"] == 9
    assert calls(job)["calls"] == 13


def test_plans_embeddings_in_their_lanes_and_probes_them(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    for lane in ("online", "sql"):
        plan = planned(embed_arguments(job, f"--lane={lane}"))
        assert list(lanes(plan)) == ["online", "batch", "sql"]
        assert Decimal(lanes(plan)["batch"]["usd"]) * 2 == Decimal(lanes(plan)["online"]["usd"])
        assert lanes(plan)["sql"]["usd"] == lanes(plan)["online"]["usd"] == f"{6 * 258 * Decimal('0.45') / 10**6:.9f}"
        assert "4,000 calls per minute of BigQuery" in lanes(plan)["sql"]["binds"]
    assert calls(job) == {}
    assert job.results not in datasets()
    probed = planned(embed_arguments(job), "--probe=2")
    assert (calls(job)["calls"], probed["probe"]["ok"], probed["units"]["remaining"]) == (2, 2, 4)
    assert len(job.query("SELECT unit_id FROM {results}.embeddings_gemini_embedding_2_64")) == 2


@pytest.fixture(scope="module")
def small(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(cloud, tmp_path_factory.mktemp("small"), 3)


@pytest.fixture(scope="module")
def expensive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A flag with models whose every call costs dollars."""
    text = (SHIPPED / "models.yaml").read_text()
    for price in ("input: 0.30", "input: 0.15", "input: 0.45"):
        assert price in text
        text = text.replace(price, "input: 90000")
    path = tmp_path_factory.mktemp("expensive") / "models.yaml"
    path.write_text(text)
    return f"--models_file={path}"


@pytest.mark.parametrize("lane", ["online", "flex", "batch", "embed", "sql", "probe"])
def test_paid_commands_need_confirmation_above_the_threshold(small: Job, expensive: str, lane: str) -> None:
    small.cloud.reset()
    commands = {
        "online": small.arguments(),
        "flex": small.arguments("--lane=flex"),
        "batch": batch_arguments(small),
        "embed": embed_arguments(small, "--transport=uri"),
        "sql": embed_arguments(small, "--lane=sql"),
        "probe": ["plan", *small.arguments("--probe=3")],
    }
    code, _, err = run_cli([*commands[lane], expensive])
    assert code == 2, err
    (line,) = [line for line in err.splitlines() if line.startswith("imagebeam: ")]
    assert "this will cost about $" in line
    assert "add --yes to confirm, cap it with --max_cost_usd" in line
    assert calls(small).get("calls", 0) == 0
    assert small.results not in datasets()


def test_uses_the_given_quota_and_explains_impossible_lanes(small: Job, expensive: str) -> None:
    plan = planned(small.arguments("--max_rpm=2", "--transport=inline", "--max_calls=1"), expensive)
    found = lanes(plan)
    assert (found["online"]["binds"], found["online"]["seconds"]) == ("2 calls per minute", 92)
    assert "this run must send bytes" in found["batch"]["problem"]
    assert plan["recommended"]["lane"] == "online", "both cost the same with these prices, and a flex call takes longer"
    assert any("--max_calls=1 stops the run" in note for note in plan["notes"])
    assert any("--yes or --max_cost_usd" in note for note in plan["notes"])
    old = planned(small.arguments("--model=gemini-2.5-flash", "--location=us-central1"))
    assert "the flex lane does not support gemini-2.5-flash" in lanes(old)["flex"]["problem"]
    assert any("retires" in note for note in old["notes"])
    by_piece = embed_arguments(small, "--model=multimodalembedding@001", "--location=europe-west1", "--dimension=128")
    assert lanes(planned(by_piece))["online"]["binds"] == "120 calls per minute"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task=image_qualty"], "image_quality"),
        (["--source=nowhere.observations"], "nowhere"),
        (["--where=heading >"], "BigQuery rejects the query"),
        (["--keep_columns=weather"], "weather"),
        (["--location=us-central1"], "is not available in us-central1"),
        (["--max_tpm=5"], "--max_tpm=5 is less than one call per minute"),
        (["--probe=0"], "--probe takes a whole number"),
        (["--results_location=EU"], "EU"),
    ],
)
def test_rejects_invalid_input_without_calls(small: Job, arguments: list[str], expected: str) -> None:
    small.cloud.reset()
    replaced = {argument.partition("=")[0] for argument in arguments}
    base = [argument for argument in small.arguments() if argument.partition("=")[0] not in replaced]
    code, out, err = run_cli(["plan", *base, *arguments])
    assert (code, out) == (2, ""), err
    (line,) = [line for line in err.splitlines() if line.startswith("imagebeam: ")]
    assert expected in line
    assert calls(small) == {}


def test_help_describes_the_command() -> None:
    code, out, _ = run_cli(["plan", "--help"])
    assert code == 0
    assert "--probe=N" in out
    assert "The model is called only with --probe" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--query=SELECT * FROM {source} LIMIT 0",), "the source is empty"),
        (("--query=SELECT * FROM {source} LIMIT 0", "--asset_types=POLE"), "the source is empty"),
        (
            ("--source={source}", "--asset_types=POLE", "--limit=5"),
            "the source has rows, but none matches --asset_types; its asset types are ASSET_CLASS_UTILITY_POLE, BENCH",
        ),
        (
            ("--source={source}", "--where=heading > 500", "--captured_from=2024-01-01"),
            "the source has rows, but none matches --captured_from and --where",
        ),
        (("--source={source}",), None),
    ],
)
def test_explains_an_empty_selection(few: Job, flags: tuple[str, ...], why: str | None) -> None:
    given = [flag.format(source=few.source) for flag in flags]
    rest = ["--task=image_quality", f"--results={few.results}", f"--work_dir={few.directory / 'runs'}"]
    code, out, err = run_cli(["plan", "classify", *given, *rest])
    assert code == 0, err
    notes = [line.removeprefix("note").strip() for line in out.splitlines() if line.startswith("note")]
    assert [note for note in notes if "source" in note] == ([why] if why else [])
