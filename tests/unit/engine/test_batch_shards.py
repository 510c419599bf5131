"""The files of a batch run: what is written into its work directory round-trips."""

from __future__ import annotations

import dataclasses
import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.settings_lines import classify_settings

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch.state import BatchRun, Prepared
from imagebeam.pipeline.run.assemble import build_batch_settings, build_run_settings
from imagebeam.pipeline.run.resolved_run import ResolvedRun, SourceInfo, build_filters
from imagebeam.transforms.batch_shards import Shard, load_line, manifest_key, shard_name, unit_of_row
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Answer, Image, Outcome, Status, Unit, UnitKind
from imagebeam.transforms.gemini.batch_requests import key_of
from imagebeam.transforms.gemini.job_states import BatchJob, Step
from imagebeam.transforms.gemini.requests import request_frame
from imagebeam.transforms.sql.sources import detect_profile, source_of
from imagebeam.transforms.sql.tables import outcome_row
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.task import Generation, Task

ASKED = {"task": "seen", "version": "0123456789ab", "model": "m", "lane": "batch", "run_id": "run-1"}
AT = "2026-11-21T10:00:00.000000Z"

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
maybe = st.none() | texts
degrees = st.none() | st.floats(-90, 90)
values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
uris = texts.map(lambda text: f"gs://bucket/{text}")


@st.composite
def units(draw: st.DrawFn) -> Unit:
    images = draw(st.lists(st.tuples(texts, uris), min_size=1, max_size=3))
    return Unit(
        unit_id=draw(texts),
        unit_type=draw(st.sampled_from((UnitKind.OBSERVATION, UnitKind.ASSET))),
        input_digest=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        images=tuple(Image(name, uri) for name, uri in images),
        asset_id=draw(maybe),
        asset_type=draw(maybe),
        snapshot_id=draw(maybe),
        capture_time=draw(st.none() | st.just(AT)),
        latitude=draw(degrees),
        longitude=draw(degrees),
        map_url=draw(maybe),
        extra=draw(st.dictionaries(texts, values | texts, max_size=3)),
    )


@given(units())
def test_unit_round_trips_through_its_manifest_line(unit: Unit) -> None:
    line = load_line(outcome_row(Outcome(unit, Answer(Status.SUBMITTED), answered_at=AT), **ASKED))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    row = orjson.loads(line)
    assert unit_of_row(row) == unit
    assert manifest_key(row) == key_of(unit.unit_id, unit.input_digest, ASKED["version"])
    assert None not in row.values()


@given(units(), st.dictionaries(texts, values | texts | st.lists(texts, max_size=2), max_size=3))
def test_answer_is_loaded_as_json(unit: Unit, answer: dict[str, Any]) -> None:
    outcome = Outcome(unit, Answer(Status.OK, value=answer), answered_at=AT)
    row = orjson.loads(load_line(outcome_row(outcome, **ASKED)))
    assert row.get("answer") == json.loads(json.dumps(answer))
    assert row.get("extra", {}) == dict(unit.extra)


def test_unit_without_uri_keeps_its_observation() -> None:
    unit = Unit("o1:a", UnitKind.OBSERVATION, "0" * 64, (Image("o1:a", None),))
    row = orjson.loads(load_line(outcome_row(Outcome(unit, Answer(Status.IMAGE_ERROR), answered_at=AT), **ASKED)))
    assert unit_of_row(row) == unit


@given(st.integers(0, 10**9), st.integers(0, 99), st.integers(1, 10), st.sampled_from(("requests", "results")))
def test_shard_names_are_unique_and_valid(start: int, part: int, number: int, kind: str) -> None:
    shard = Shard("20261121-093000-abcd", "gs://b/imagebeam/runs/x", number, shard_name(start, part))
    other = dataclasses.replace(shard, name=shard_name(start + 1, part))
    outcomes = TableName("p", "d", "outcomes")
    for mine, theirs in (
        (shard.display_name, other.display_name),
        (shard.path("job.json"), other.path("job.json")),
        (shard.output_prefix, other.output_prefix),
        (shard.table(outcomes, kind).dotted, other.table(outcomes, kind).dotted),
        (shard.job_id(kind), other.job_id(kind)),
    ):
        assert mine != theirs
    assert len(shard.display_name) <= 128
    assert shard.table(outcomes, kind).table.replace("_", "a").isalnum()
    assert shard.job_id(kind).replace("-", "a").replace("_", "a").isalnum()
    assert sorted((shard_name(start, part), shard_name(start + 1, 0))) == [
        shard_name(start, part), shard_name(start + 1, 0),
    ]  # fmt: skip


def test_shard_counts_every_unit_of_its_page() -> None:
    shard = Shard(
        "r", "d", 1, "0-0", lines=5, problems={"IMAGE_ERROR/NO_URI": 2, "IMAGE_ERROR/NOT_FOUND": 1}, skipped=4
    )
    assert shard.read == 12


def test_unknown_state_with_an_end_time_is_collected() -> None:
    job = BatchJob("n", "d", "JOB_STATE_MELTED")
    assert (job.rule.step, job.rule.terminal, job.rule.known) == (Step.WAIT, False, False)
    over = dataclasses.replace(job, ended=datetime.datetime.now(datetime.UTC))
    assert (over.rule.step, over.rule.terminal, over.rule.known) == (Step.SALVAGE, True, False)
    assert "JOB_STATE_MELTED" in over.rule.reason
    running = dataclasses.replace(over, state="JOB_STATE_RUNNING")
    assert running.rule.step is Step.WAIT


RICH = """\
name: rich
description: Everything that a task can say.
prompt: 'What is {{extra.heading}}? {{asset_type}}'
system: Be brief.
unit: asset
max_images: 3
media_resolution: high
generation: {temperature: 0.25, top_p: 0.5, max_output_tokens: 300, seed: 7, thinking: low}
schema:
  type: object
  properties:
    zeta: {type: string, enum: [b, a]}
    alpha: {type: number, minimum: 0.5, maximum: 2, nullable: true}
    many: {type: array, items: {type: object, properties: {n: {type: integer}}, required: [n]}}
  required: [zeta]
"""
FLAGS = {
    "plain": (),
    "filtered": (
        "--bbox=5,50,10,51", "--captured_from=2024-01-01", "--asset_types=POLE,SIGN", "--where=heading > 3",
        "--limit=7", "--keep_columns=heading", "--due=new,failed:SAFETY", "--sample_percent=12.5",
    ),
    "near": ("--near=46.948,7.447,500", "--max_cost_usd=1.5", "--max_calls=100000"),
    "batch": (
        "--batch_lines=10", "--batch_bytes=1000000", "--batch_deadline_s=60.5", "--batch_fallback=online",
        "--batch_rounds=2", "--max_failure_percent=3.5", "--location=global",
    ),
}  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("task", ["image_quality", "describe", "road_sign", "utility_pole", "rich.yaml"])
def test_another_process_reads_the_same_run(tmp_path: Path, task: str, flags: str) -> None:
    (tmp_path / "rich.yaml").write_text(RICH)
    models = catalog.load_models_file(None)
    argv = [
        "--project=my-project",
        f"--task={task}",
        "--source=my-project.d.t",
        "--results=my-project.r",
        "--work_dir=gs://b-b/w",
        "--lane=batch",
    ]
    settings, _ = classify_settings([*argv, *FLAGS[flags]], cwd=tmp_path, environ={})
    asked = catalog.load_task(task, models, tmp_path)
    columns = [
        {"name": name, "type": kind}
        for name, kind in (
            ("observation_id", "STRING"), ("asset_id", "STRING"), ("asset_type", "STRING"), ("gcs_uri", "STRING"),
            ("capture_time", "TIMESTAMP"), ("heading", "FLOAT"), ("latitude", "FLOAT"), ("longitude", "FLOAT"),
        )
    ]  # fmt: skip
    source = source_of(
        detected=detect_profile("p.d.t", columns),
        table=TableName("p", "d", "t"),
        snapshots=TableName("p", "d", "snapshots"),
    )
    resolved = ResolvedRun(settings)
    resolved.task, resolved.source_info = asked, SourceInfo(source, "US", "")
    resolved.filters = build_filters(settings)
    run = build_run_settings(resolved)
    local = dataclasses.replace(run, directory=str(tmp_path / "runs" / run.run_id))
    made = BatchRun(local, build_batch_settings(settings), AT, settings.max_failure_percent, "FnApiRunner", ("--a=b",))
    batch_state.save_run(made)
    found = batch_state.load_run(str(tmp_path), run.run_id)
    assert found == made
    assert found.run.task.version == asked.version
    assert found.run.task.definition() == asked.definition()
    assert list(found.run.task.definition()) == list(asked.definition())
    assert batch_state.list_run_ids(str(tmp_path)) == [run.run_id]


def test_an_open_run_of_an_ignored_setting_keeps_its_version(tmp_path: Path) -> None:
    """Before, such a setting was part of the version; keys in the files of an open run hold that version."""
    stored = Task("look", "", "gemini-3.5-flash-lite", "Look.", generation=Generation(temperature=0.2))
    document = pydantic.TypeAdapter(Task).dump_python(stored, mode="json")
    del document["ignored_settings"]
    found = pydantic.TypeAdapter(Task).validate_python(document)
    assert found.version == stored.version
    request = request_frame(found, catalog.load_models_file(None).profile(found.model), {})
    assert "generationConfig" not in request


def test_round_state_round_trips(tmp_path: Path) -> None:
    models = catalog.load_models_file(None)
    argv = [
        "--project=my-project",
        "--task=describe",
        "--source=my-project.d.t",
        "--results=my-project.r",
        "--work_dir=gs://b-b/w",
        "--lane=batch",
    ]
    settings, _ = classify_settings(argv, cwd=tmp_path, environ={})
    task = catalog.load_task("describe", models, tmp_path)
    columns = [{"name": "observation_id", "type": "STRING"}, {"name": "gcs_uri", "type": "STRING"}]
    source = source_of(detected=detect_profile("p.d.t", columns), table=TableName("p", "d", "t"))
    resolved = ResolvedRun(settings)
    resolved.task, resolved.source_info = task, SourceInfo(source, "US", "")
    run = build_run_settings(resolved)
    made = BatchRun(
        dataclasses.replace(run, directory=str(tmp_path / "x")), build_batch_settings(settings), AT, 20.0, "FnApiRunner"
    )
    shard = Shard(run.run_id, made.run.directory, 2, shard_name(0, 1), 3, 400, {"IMAGE_ERROR/NO_URI": 1}, 2)
    assert (batch_state.load_prepared(made, 2), batch_state.load_remainder(made)) == (None, None)
    assert batch_state.newest_round(made) == 1
    prepared = Prepared(SourceCounts(9, 6, 3), (shard,))
    batch_state.save_prepared(made.in_round(2), prepared)
    found = batch_state.load_prepared(made, 2)
    assert found is not None
    assert (found.source, list(found.shards)) == (prepared.source, [shard])
    assert batch_state.newest_round(made) == 2
    rest = OutcomeCounts(3, 1, {"UNAVAILABLE/QUOTA": 1}, 1, 4, stop="budget: x", cost_usd=Decimal("0.000001"))
    batch_state.save_remainder(made.run, rest)
    assert batch_state.load_remainder(made) == rest
    assert not batch_state.is_canceled(made)
    batch_state.cancel(made)
    batch_state.cancel(made)
    assert batch_state.is_canceled(made)
