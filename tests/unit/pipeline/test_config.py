"""Settings: flags over imagebeam.yaml over defaults, typed and checked."""

import datetime as dt
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.settings_lines import classify_settings

from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags.classify import CLASSIFY, IN_FILE
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import new_run_id
from imagebeam.transforms.core.records import Lane

NEEDED = (
    "--task=describe",
    "--source=photos.latest",
    "--results=answers",
    "--project=my-project",
    "--run_id=r",
)
SQUARE = '{"type": "Polygon", "coordinates": [[[7, 46], [8, 46], [8, 47], [7, 46]]]}'

Settings = Callable[..., ClassifySettings]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    def make(*argv: str, needed: tuple[str, ...] = NEEDED, environ: dict[str, str] | None = None) -> Any:
        return classify_settings([*needed, *argv], cwd=tmp_path, environ=environ or {})[0]

    return make


def default(tmp_path: Path) -> ClassifySettings:
    return ClassifySettings(
        task="describe",
        project="my-project",
        source="my-project.photos.latest",
        results="my-project.answers",
        run_id="r",
        work_dir=str(tmp_path / ".imagebeam"),
        given={
            "task": "describe",
            "source": "photos.latest",
            "results": "answers",
            "project": "my-project",
            "run_id": "r",
        },
    )


def test_needs_only_four_flags(settings: Settings, tmp_path: Path) -> None:
    assert settings() == default(tmp_path)


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("--model=gemini-3.6-flash", {"model": "gemini-3.6-flash"}),
        ("--unit=asset", {"unit": "asset"}),
        ("--max_images=4", {"max_images": 4}),
        ("--profile=pano", {"profile": "pano"}),
        ("--columns=observation_id=id", {"columns": {"observation_id": "id"}, "profile": "custom"}),
        ("--keep_columns=a,b", {"keep_columns": ("a", "b")}),
        ("--due=new,failed:NOT_FOUND", {"due": ("new", "failed:NOT_FOUND")}),
        ("--limit=7", {"limit": 7}),
        ("--sample_percent=2.5", {"sample_percent": 2.5}),
        ("--asset_types=A,B", {"asset_types": ("A", "B")}),
        ("--bbox=-7.5,46,8,47", {"bbox": (-7.5, 46.0, 8.0, 47.0)}),
        ("--near=46,7,500", {"near": (46.0, 7.0, 500.0)}),
        ("--captured_from=2025-01-01", {"captured_from": "2025-01-01T00:00:00Z"}),
        ("--captured_until=2025-01-01", {"captured_until": "2025-01-01T00:00:00Z"}),
        ("--where=a > 1", {"where": "a > 1"}),
        ("--results_location=EU", {"results_location": "EU"}),
        ("--work_dir=gs://bucket/runs/", {"work_dir": "gs://bucket/runs"}),
        ("--location=europe-west4", {"location": "europe-west4"}),
        ("--lane=flex", {"lane": "flex"}),
        ("--transport=inline", {"transport": "inline"}),
        ("--in_flight=4", {"in_flight": 4}),
        ("--max_rpm=60", {"max_rpm": 60}),
        ("--max_tpm=90000", {"max_tpm": 90000}),
        ("--max_cost_usd=0.1", {"max_cost_usd": Decimal("0.1")}),
        ("--max_calls=500", {"max_calls": 500}),
        ("--unit_deadline_s=5", {"unit_deadline_s": 5.0}),
        ("--call_timeout_s=5", {"call_timeout_s": 5.0}),
        ("--maximum_bytes_billed=1000", {"maximum_bytes_billed": 1000}),
        ("--max_failure_percent=0", {"max_failure_percent": 0.0}),
        ("--runner=PortableRunner", {"runner": "PortableRunner"}),
        ("--direct_num_workers=2", {"direct_num_workers": 2}),
        ("--unit_batch_size=10", {"unit_batch_size": 10}),
        ("--yes", {"yes": True}),
        ("--json", {"as_json": True}),
        ("--quiet", {"quiet": True}),
        ("--log_level=debug", {"log_level": "debug"}),
    ],
)
def test_flag_changes_only_its_setting(
    settings: Settings, tmp_path: Path, argument: str, changed: dict[str, Any]
) -> None:
    expected = default(tmp_path).replace(**changed)
    got = settings(argument)
    assert got.replace(given=expected.given) == expected


def test_every_field_is_a_flag_or_derived() -> None:
    fields = {field.alias or name for name, field in ClassifySettings.model_fields.items()}
    assert fields - {"polygon", "given", "dataflow_workers"} == set(CLASSIFY)


def test_validates_python_values() -> None:
    needed: dict[str, Any] = {
        "task": "describe",
        "project": "my-project",
        "results": "my-project.answers",
        "run_id": "r",
    }
    untyped: Any = ClassifySettings
    given: dict[str, Any] = {"lane": "flex", "limit": 5, "max_cost_usd": 0.1, "bbox": [-7.5, 46, 8, 47]}
    made = ClassifySettings(**needed, **given, source="my-project.d.t")
    assert (made.lane, made.limit, made.max_cost_usd) == (Lane.FLEX, 5, Decimal("0.1"))
    with pytest.raises(UserError, match="limit takes a whole number from 1 up, not 0"):
        ClassifySettings(**needed, limit=0)
    with pytest.raises(UserError, match="--batch_rounds is for --lane=batch"):
        ClassifySettings(**needed, batch_rounds=2)
    with pytest.raises(UserError, match="unknown setting limt; did you mean limit"):
        untyped(**needed, limt=2)
    with pytest.raises(UserError, match=r"^task is missing; run_id is missing$"):
        untyped(project="my-project", results="my-project.answers")


def test_file_overrides_defaults_and_flags_override_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text("limit: 5\nlane: flex\nasset_types: [A, B]\n")
    got = settings("--limit=9")
    assert (got.limit, got.lane, got.asset_types, got.transport) == (9, "flex", ("A", "B"), "auto")
    assert got.given["lane"] == "flex"


def test_accepts_native_yaml_values(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text(
        "bbox: [-7.5, 46, 8, 47]\ncaptured_from: 2025-01-01\ncaptured_until: 2025-06-01T10:00:00Z\n"
        "sample_percent: 5\nquiet: true\ncolumns: {observation_id: id}\nmodel:\n"
    )
    got = settings()
    assert got.bbox == (-7.5, 46.0, 8.0, 47.0)
    assert (got.captured_from, got.captured_until) == ("2025-01-01T00:00:00Z", "2025-06-01T10:00:00Z")
    assert (got.sample_percent, got.quiet, got.columns, got.model) == (
        5.0,
        True,
        {"observation_id": "id"},
        None,
    )


def test_source_flag_replaces_source_in_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text("source: other.table\n")
    got = settings("--query=SELECT 1", needed=tuple(part for part in NEEDED if "source" not in part))
    assert (got.source, got.query) == (None, "SELECT 1")


def test_reads_project_from_environment(settings: Settings) -> None:
    without = tuple(part for part in NEEDED if "project" not in part)
    assert settings(needed=without, environ={"GOOGLE_CLOUD_PROJECT": "their-project"}).project == "their-project"
    assert settings(environ={"GOOGLE_CLOUD_PROJECT": "their-project"}).project == "my-project"


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("photos.latest", "my-project.photos.latest"),
        ("other-project.photos.latest", "other-project.photos.latest"),
        ("other-project:photos.latest", "other-project.photos.latest"),
        ("example.com:other-project.photos.latest", "example.com:other-project.photos.latest"),
        ("`other-project.photos.latest`", "other-project.photos.latest"),
    ],
)
def test_qualifies_table_names(settings: Settings, written: str, full: str) -> None:
    assert settings(f"--source={written}").source == full


def test_accepts_results_in_another_project(settings: Settings) -> None:
    assert settings("--results=other-project:answers").results_dataset == ("other-project", "answers")
    assert settings("--results=answers").results_dataset == ("my-project", "answers")


def test_reads_query_and_polygon_from_files(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 1\n")
    (tmp_path / "area.geojson").write_text(SQUARE)
    got = settings(
        "--query_file=q.sql",
        "--polygon_file=area.geojson",
        needed=tuple(a for a in NEEDED if "source" not in a),
    )
    assert (got.query, got.polygon) == ("SELECT 1", SQUARE)


def test_merges_beam_options_of_flags_and_file(tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text(
        "region: europe-west6\ntemp_location: gs://bucket/old\nno_auth: true\nprofile_cpu: false\nexperiments: [a, b]\n"
    )
    dataflow = ("--runner=DataflowRunner", "--work_dir=gs://bucket/w", "--sdk_container_image=image")
    _, beam = classify_settings([*NEEDED, *dataflow, "--temp_location=gs://bucket/new"], cwd=tmp_path, environ={})
    assert beam[:9] == [
        "--project=my-project",
        "--runner=DataflowRunner",
        "--direct_num_workers=1",
        "--region=europe-west6",
        "--no_auth",
        "--experiments=a",
        "--experiments=b",
        "--sdk_container_image=image",
        "--temp_location=gs://bucket/new",
    ]


def test_ignores_options_of_other_runners_in_file(tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text("region: europe-west6\nnum_workers: 3\nexperiments: [a]\n")
    _, beam = classify_settings([*NEEDED, "--direct_running_mode=multi_processing"], cwd=tmp_path, environ={})
    assert beam[3:] == ["--experiments=a", "--direct_running_mode=multi_processing"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--num_workers=3"], "--num_workers needs --runner=DataflowRunner; this run uses FnApiRunner"),
        (["--subnetwork=x"], "--subnetwork needs --runner=DataflowRunner"),
        (["--setup_file=./setup.py"], "--setup_file needs --runner=DataflowRunner"),
        (["--num_workers=3", "--runner=PortableRunner"], "--num_workers needs --runner=DataflowRunner; this run uses"),
        (["--job_endpoint=x"], "--job_endpoint needs --runner=PortableRunner; this run uses FnApiRunner"),
        (["--flink_version=1.19"], "--flink_version needs --runner=PortableRunner"),
        (["--direct_running_mode=in_memory", "--runner=DataflowRunner"], "--direct_running_mode needs --runner=FnApi"),
        (["--s3_region_name=x"], "unknown flag --s3_region_name"),
        (["--streaming"], "unknown flag --streaming"),
        (["--dry_run=true"], "unknown flag --dry_run; use imagebeam plan"),
        (["--dry-run", "--runner=DataflowRunner"], "imagebeam plan"),
    ],
)
def test_rejects_beam_options_without_effect(settings: Settings, argv: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settings(*argv)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "states"),
    [
        ([], "new,retry"),
        (["--reprocess=outdated"], "new,retry,outdated"),
        (["--reprocess=failed:not_found,outdated"], "new,retry,outdated,failed:NOT_FOUND"),
        (["--due=outdated"], "outdated"),
        (["--due=new,failed"], "new,failed"),
    ],
)
def test_reprocess_adds_states_and_due_replaces_them(settings: Settings, argv: list[str], states: str) -> None:
    assert sorted(str(settings(*argv).selection).split(",")) == sorted(states.split(","))


def test_deprecated_names_print_a_warning(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = settings("--due=new", "--group_size=5")
    assert (got.due, got.unit_batch_size, got.given["unit_batch_size"]) == (("new",), 5, "5")
    assert capsys.readouterr().err == (
        "warning: --due is deprecated; use --reprocess\nwarning: --group_size is deprecated; use --unit_batch_size\n"
    )
    (tmp_path / "imagebeam.yaml").write_text("due: [new, outdated]\ngroup_size: 7\n")
    got = settings()
    assert (got.due, got.unit_batch_size) == (("new", "outdated"), 7)
    assert capsys.readouterr().err == (
        "warning: due in imagebeam.yaml is deprecated; use reprocess\n"
        "warning: group_size in imagebeam.yaml is deprecated; use unit_batch_size\n"
    )
    assert settings("--reprocess=outdated").due == (), "the command line replaces the file"
    with pytest.raises(UserError, match="--reprocess and --due are both given"):
        settings("--reprocess=outdated", "--due=new")


def test_creates_unique_run_ids(settings: Settings) -> None:
    without = tuple(part for part in NEEDED if "run_id" not in part)
    first, second = settings(needed=without).run_id, settings(needed=without).run_id
    assert first != second
    assert new_run_id(dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)).startswith("20260102-030405-")
    assert settings(f"--run_id={first}").run_id == first


@pytest.mark.parametrize("missing", ["task", "source", "results", "project"])
def test_names_missing_settings(settings: Settings, missing: str) -> None:
    with pytest.raises(UserError, match=f"no {missing}: .*--{missing}="):
        settings(needed=tuple(part for part in NEEDED if not part.startswith(f"--{missing}")))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--query=SELECT 1"], "--source and --query are both given"),
        (["--profile=custom"], "profile custom needs --columns"),
        (["--profile=pano", "--columns=a=b"], "--columns is for profile custom, not pano"),
        (["--max_images=3", "--unit=observation"], "--max_images requires --unit=asset"),
        (["--captured_from=2025-02-01", "--captured_until=2025-01-01"], "nothing can match"),
        (["--captured_from=2025-02-01T00:00:00.5Z", "--captured_until=2025-02-01"], "nothing can match"),
        (["--runner=DataflowRunner"], "use --work_dir=gs://bucket/path"),
        (["--work_dir=gs:///x"], "has no bucket"),
        (["--work_dir=gs://Bad_Bucket!"], "--work_dir='gs://Bad_Bucket!' is not a valid Cloud Storage path"),
        (["--work_dir=gs://My-Bucket/x"], "write gs://bucket/path"),
        (["--work_dir=s3://b/x"], "a local directory or gs://bucket/path"),
        (["--work_dir=file.txt/runs"], "file.txt is a file, not a directory"),
        (["--polygon_file=none.geojson"], "--polygon_file=none.geojson: no such file"),
        (["--polygon_file=file.txt"], "--polygon_file=file.txt is not JSON"),
        (["--polygon_file=empty.txt"], "--polygon_file=empty.txt is empty"),
        (["--polygon_file=binary.bin"], "--polygon_file=binary.bin is not UTF-8 text"),
        (["--polygon_file=directory"], "--polygon_file=directory: Is a directory"),
        (["--config=none.yaml"], "none.yaml; imagebeam init writes one"),
    ],
)
def test_rejects_contradictions_with_one_line(settings: Settings, tmp_path: Path, argv: list[str], said: str) -> None:
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.bin").write_bytes(b"\xff\xfe")
    (tmp_path / "directory").mkdir()
    with pytest.raises(UserError) as caught:
        settings(*argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rejects_read_only_work_directory(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, and tests in containers run as root: the kernel's answer is stood in for.
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    with pytest.raises(UserError, match="is not writable"):
        settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limt: 5", "unknown key limt in imagebeam.yaml; did you mean limit?"),
        ("reigon: x", "unknown key reigon in imagebeam.yaml; did you mean region?"),
        ("qqqqqq: x", "keys are flags of imagebeam classify --help"),
        ("limit: 0", "limit in imagebeam.yaml takes a whole number from 1 up, not 0"),
        ("limit: {a: 1}", "limit in imagebeam.yaml takes a whole number from 1 up, not a dict; for example 100"),
        ("limit: [1, 2]", "limit in imagebeam.yaml takes a whole number from 1 up, not a list"),
        ("yes: true", "yes cannot be set in imagebeam.yaml; use --yes on the command line"),
        ("run_id: a", "run_id cannot be set in imagebeam.yaml"),
        ("no_auth: 3", "no_auth in imagebeam.yaml takes true or false, not 3"),
        ("num_workers: many", "invalid int value: 'many' (a Beam option)"),
        ("- limit", "imagebeam.yaml"),
        ("limit: 1\nlimit: 2", "duplicate key limit"),
        ("limit: [", "imagebeam.yaml, line"),
    ],
)
def test_rejects_invalid_file_naming_file_and_key(settings: Settings, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "imagebeam.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        settings()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_comment_of_a_new_file_is_a_valid_key() -> None:
    text = config_file.write({})
    assert config_file.parse(text, where="imagebeam.yaml").given == {}
    listed = {name for name, flag in IN_FILE.items() if not flag.replaced_by}
    keys = [f"# {name}: " for name in IN_FILE]
    switched_on = "\n".join(
        line.removeprefix("# ") if line.startswith(tuple(keys)) else line for line in text.splitlines()
    )
    assert set(config_file.parse(switched_on, where="imagebeam.yaml").given) == listed
    assert set(yaml.safe_load(switched_on)) == listed


def test_file_round_trip() -> None:
    values = {
        "limit": 5,
        "sample_percent": 2.5,
        "quiet": True,
        "asset_types": ("A", "B"),
        "columns": {"observation_id": "a.b"},
        "captured_from": "2025-01-01T00:00:00Z",
        "where": "name = 'it''s: #1'",
        "bbox": (-7.5, 46.0, 8.0, 47.0),
    }
    beam = ("--region=us-central1", "--no_auth", "--experiments=a", "--experiments=b")
    read = config_file.parse(config_file.write(values, beam), where="x")
    assert read.given == values
    assert read.beam == beam
