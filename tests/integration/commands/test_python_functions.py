"""The Python functions on the local cloud: one finished run that most tests only read."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import pytest
from support.jobs import Job, make_job

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline import RunResult, SearchResult, classify, embed, plan, prepare, search
from imagebeam.transforms import (
    CallModel,
    FinishRun,
    OutcomeCounts,
    ReadUnits,
    ReconciliationError,
    StartRun,
    SystemicError,
    UserError,
)

MODEL: Final = "multimodalembedding@001"


@dataclasses.dataclass(frozen=True)
class Lab:
    """A source with images that cannot be answered, and a finished run over it."""

    job: Job
    result: RunResult

    def arguments(self, task: str = "image_quality") -> dict[str, Any]:
        return {"task": task, **place(self.job)}


def place(job: Job) -> dict[str, Any]:
    return {"source": job.source, "results": job.results, "work_dir": job.directory / "runs", "quiet": True}


@pytest.fixture(scope="module")
def lab(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    rows: list[dict[str, Any]] = [{}, {}, {"data": b"no image"}, {"data": None}, {"gcs_uri": None}]
    job = make_job(cloud, tmp_path_factory.mktemp("python"), rows)
    return Lab(job, classify(**place(job), task="image_quality", keep_columns=["heading", "asset_type"]))


@pytest.fixture(scope="module")
def found(lab: Lab) -> SearchResult:
    embedded = embed(**place(lab.job), model=MODEL, dimension=128, location="us-central1")
    assert (embedded.counts.ok, embedded.exit_code) == (2, 0)
    return search(results=lab.job.results, text="a dark street", top_k=1)


# Results


def test_result_has_counts_cost_and_summary(lab: Lab) -> None:
    result = lab.result
    assert (result.counts.ok, result.counts.failures, result.source.units_in) == (2, 3, 5)
    assert result.counts.failed == {"IMAGE_ERROR/UNREADABLE": 1, "IMAGE_ERROR/NOT_FOUND": 1, "IMAGE_ERROR/NO_URI": 1}
    assert isinstance(result.cost_usd, Decimal)
    assert result.cost_usd == sum(row["cost_usd"] for row in lab.job.query("SELECT cost_usd FROM {results}.outcomes"))
    assert result.summary == json.loads(Path(result.run.summary_path).read_text())
    assert (result.exit_code, result.ended, result.stop) == (0, True, None)
    assert "2 OK" in str(result)
    assert repr(result).endswith("all units accounted for")


def test_data_frame_has_every_selected_unit_with_typed_columns(lab: Lab) -> None:
    frame = lab.result.to_dataframe()
    assert list(frame.unit_id) == [row["observation_id"] for row in lab.job.rows]
    assert list(frame.status) == ["OK", "OK", "IMAGE_ERROR", "IMAGE_ERROR", "IMAGE_ERROR"]
    assert list(frame._reason)[2:] == ["UNREADABLE", "NOT_FOUND", "NO_URI"]  # image_quality has a field reason
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert types["usable"] == "boolean"
    assert types["quality_score"] == types["heading"] == "Float64"
    assert types["attempts"] == "Int64"
    assert types["answered_at"] == types["capture_time"] == "datetime64[us, UTC]"
    assert [list(uris) for uris in frame.image_uris] == [
        [row["gcs_uri"]] if row["gcs_uri"] else [] for row in lab.job.rows
    ]
    assert list(frame.heading) == [row["heading"] for row in lab.job.rows]
    view = lab.job.query("SELECT unit_id, quality_score FROM {results}.image_quality ORDER BY unit_id")
    assert list(frame.quality_score[:2]) == [row["quality_score"] for row in view]
    assert frame.quality_score.isna().tolist() == [False, False, True, True, True]


def test_the_same_call_again_makes_no_calls_and_returns_the_same_rows(cloud: LocalCloud, lab: Lab) -> None:
    again = classify(**lab.arguments(), keep_columns=["heading", "asset_type"])
    assert (again.counts, again.source.already_done) == (OutcomeCounts(), 2)
    assert lab.job.calls() == {}
    assert again.to_dataframe().equals(lab.result.to_dataframe())


def test_data_frame_has_the_answers_of_another_version_where_the_current_one_has_none(lab: Lab) -> None:
    changed = dataclasses.replace(lab.result.run.task, prompt="Another prompt.")
    engine = lab.result.run.engine
    calls = dataclasses.replace(engine.call_settings, task=changed)
    run = dataclasses.replace(lab.result.run, engine=dataclasses.replace(engine, call_settings=calls))
    frame = RunResult(run).to_dataframe()
    assert changed.version != lab.result.run.task.version
    assert frame.status.tolist()[:2] == ["OK", "OK"]
    assert frame.status.isna().tolist() == [False, False, True, True, True]
    assert set(frame.version.dropna()) == {lab.result.run.task.version}


def test_notebook_shows_images_with_their_answers(lab: Lab) -> None:
    page = lab.result._repr_html_()
    sources = re.findall(r'src="([^"]{30})', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for reason in ("UNREADABLE", "NOT_FOUND", "NO_URI"):
        assert f"no image: {reason}" in page
    score = lab.job.query("SELECT quality_score FROM {results}.image_quality LIMIT 1")[0]["quality_score"]
    assert f"<dt>quality_score</dt><dd>{score}</dd>" in page
    assert not re.search(r"""(src|href)=["']?(https?:|//)|url\(|@import|<script""", page.replace('href="https://', ""))


def test_notebook_shows_text_as_text(lab: Lab) -> None:
    summary = {**lab.result.summary, "stop": "budget: <script>alert(1)</script>"}
    page = dataclasses.replace(lab.result, recorded_summary=summary)._repr_html_()
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_a_run_that_continues_elsewhere_has_no_counts_yet(lab: Lab, tmp_path: Path) -> None:
    result = RunResult(dataclasses.replace(lab.result.run, directory=str(tmp_path)))
    assert not result.ended
    assert "was submitted" in str(result)
    assert "was submitted" in result._repr_html_()
    with pytest.raises(UserError, match="has not ended"):
        _ = result.counts
    (tmp_path / "summary.json").write_text(json.dumps(lab.result.summary))
    assert result.counts == lab.result.counts


@pytest.mark.parametrize(("code", "error"), [(1, ReconciliationError), (3, SystemicError)])
def test_raises_for_answers_that_cannot_be_relied_on(lab: Lab, code: int, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        dataclasses.replace(lab.result, exit_code=code).raise_for_stop()
    assert "2 OK" in raised.value.__notes__[0]


@pytest.mark.parametrize("code", [0, 4, 5, 130])
def test_returns_a_result_that_another_call_can_complete(lab: Lab, code: int) -> None:
    result = dataclasses.replace(lab.result, exit_code=code)
    assert result.raise_for_stop() is result


def test_without_pandas_the_error_names_the_extra(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=re.escape("to_dataframe needs pandas; pip install 'imagebeam[pandas]'")):
        lab.result.to_dataframe()


# Calls


def run_plan(job: Any) -> object:
    return plan(job)


def test_works_in_a_thread_inside_a_running_event_loop_and_stops_at_a_budget(
    cloud: LocalCloud, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    async def cell() -> RunResult:
        return classify(**lab.arguments(task="describe"), max_calls=1)

    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(cell())))
    thread.start()
    thread.join()
    (result,) = results
    assert (result.exit_code, result.counts.calls) == (4, 1)
    assert str(result.stop).startswith("budget:")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "warning" not in captured.err


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (classify, {"task": "describe", "source": "no_such.table", "results": "r"}, "dataset .*no_such does not exist"),
        (classify, {"task": "describe", "soruce": "a.b"}, "did you mean source"),
        (embed, {"source": "a.b", "results": "r", "lane": "flex"}, "lane takes online, batch, sql"),
        (search, {"results": "r"}, "a search needs exactly one of"),
        (run_plan, {"job": "clasify"}, "unknown job clasify; did you mean classify"),
    ],
)
def test_errors_are_exceptions(
    cloud: LocalCloud, function: Callable[..., object], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        function(**given)


def test_reads_the_configuration_file_of_the_working_directory(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagebeam.yaml").write_text("results: r\nsource: no_such.table\n")
    with pytest.raises(UserError, match=r"dataset .*no_such does not exist"):
        classify(task="describe")


# Embeddings, search, plan, own pipelines


def test_search_returns_hits_as_data_frame_and_contact_sheet(found: SearchResult) -> None:
    frame = found.to_dataframe()
    assert (list(frame["rank"]), str(frame.distance.dtype)) == ([1], "Float64")
    assert list(frame.unit_id) == [row["unit_id"] for row in found.hits]
    assert str(frame.capture_time.dtype) == "datetime64[us, UTC]"
    page = found._repr_html_()
    assert page.count('src="data:image/jpeg') == 1
    assert "images that show: a dark street" in page
    assert str(found.hits[0]["unit_id"]) in str(found)


def test_embeddings_are_the_answers_of_an_embedding_run(lab: Lab, found: SearchResult) -> None:
    result = embed(**place(lab.job), model=MODEL, dimension=128, location="us-central1", limit=5)
    frame = result.to_dataframe()
    assert result.counts.calls == 0
    assert sorted(len(vector) for vector in frame.vector) == [0, 0, 0, 128, 128]


def test_embedding_in_bigquery_returns_its_statements(lab: Lab) -> None:
    result = embed(**place(lab.job), lane="sql", dry_run=True, dimension=64)
    assert any("AI.GENERATE_EMBEDDING" in statement for statement in result.statements)
    assert "AI.GENERATE_EMBEDDING" in str(result)
    assert "AI.GENERATE_EMBEDDING" in result._repr_html_()


def test_plan_shows_a_table_of_the_lanes(lab: Lab) -> None:
    made = plan(**lab.arguments(task="describe"))
    frame = made.to_dataframe()
    assert list(frame.lane) == ["online", "flex", "batch"] == [lane.lane for lane in made.lanes]
    assert frame.usd[0] > frame.usd[1] > 0
    assert made.document["calls"] == made.expected.calls
    assert "<th>limiting factor</th>" in made._repr_html_()
    assert "online  $" in str(made)


def test_own_pipeline_runs_with_prepared_settings(lab: Lab, tmp_path: Path) -> None:
    task = tmp_path / "own.yaml"
    task.write_text("name: own\nprompt: Describe the image.\n")
    settings = prepare(**lab.arguments(task=str(task)))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        started = pipeline | StartRun(settings)
        counts = started["pages"] | ReadUnits(settings) | CallModel(settings.engine, emit="counts")
        _ = counts | FinishRun(settings, started["source"])
    result = RunResult(settings)
    assert (result.counts.ok, result.counts.failures) == (2, 3)
    assert list(result.to_dataframe().text.notna()) == [True, True, False, False, False]
