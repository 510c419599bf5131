"""The launcher of a template: its arguments become a command line, or one line with an error."""

from pathlib import Path

import google.cloud.storage as storage
import pytest
from support.jobs import captured

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.cli import flex_template
from imagebeam.pipeline.cli import main as cli
from imagebeam.pipeline.run.embed_settings import JOBS
from imagebeam.transforms.core.errors import UserError

STORED = {"gs://my-bucket/area.json": b"{}", "gs://my-bucket/tasks/poles.yaml": b"name: poles\n"}


def arguments(directory: Path, *given: str, job: str = "classify") -> list[str]:
    """What follows the name of the job."""
    name, *line = flex_template.job_arguments(given, directory, STORED.get)
    assert name == job
    return line


def test_runs_on_dataflow_with_the_parameters_of_the_launcher(tmp_path: Path) -> None:
    given = ["--project=my-project", "--runner=DataflowRunner", "--task=image_quality", "--labels={\n}\n"]
    assert arguments(tmp_path, *given) == ["--runner=DataflowRunner", *given]


def test_ignores_empty_fields(tmp_path: Path) -> None:
    assert arguments(tmp_path, "--query=", "--limit= ", "--polygon_file=", "--task=describe") == [
        "--runner=DataflowRunner",
        "--task=describe",
    ]


def test_keeps_repeated_options_and_switches(tmp_path: Path) -> None:
    given = ["--experiments=a", "--experiments=b", "--no_use_public_ips"]
    assert arguments(tmp_path, *given)[1:] == given


def test_default_values_do_not_override_the_config_file(tmp_path: Path) -> None:
    form = ["--lane=online", "--transport=inline", "--yes=false", "--call_timeout_s=120"]
    stored = {"gs://my-bucket/imagebeam.yaml": b"lane: flex\n"}
    line = flex_template.job_arguments([*form, "--config=gs://my-bucket/imagebeam.yaml"], tmp_path, stored.get)
    assert line[2:] == ["--transport=inline", "--call_timeout_s=120", f"--config={tmp_path}/config.yaml"]
    assert arguments(tmp_path, *form)[1:] == form


def test_the_parameter_job_selects_the_job(tmp_path: Path) -> None:
    given = ["--dimension=768", "--limit=3"]
    assert arguments(tmp_path, "--job=embed", *given, job="embed") == ["--runner=DataflowRunner", *given]
    assert arguments(tmp_path, *given, "--job=classify")[1:] == given
    # Each job has defaults of its own that a form sends.
    file = "--config=gs://my-bucket/imagebeam.yaml"
    form = ["--job=embed", "--model=gemini-embedding-2", file]
    line = flex_template.job_arguments(form, tmp_path, {"gs://my-bucket/imagebeam.yaml": b"limit: 3\n"}.get)
    assert line[2:] == [f"--config={tmp_path}/config.yaml"]
    with pytest.raises(UserError, match="there is no template for embedd; did you mean embed"):
        arguments(tmp_path, "--job=embedd")


def test_accepts_deprecated_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = arguments(tmp_path, "--due=outdated", "--group_size=7", "--task=utility_pole")
    assert line[1:3] == ["--due=outdated", "--group_size=7"]
    assert cli.main(["classify", *line]) == 2, "no source"
    assert [text.split()[1] for text in capsys.readouterr().err.splitlines()[:2]] == ["--due", "--group_size"]


def test_downloads_files_and_keeps_their_suffix(tmp_path: Path) -> None:
    line = arguments(tmp_path, "--polygon-file=gs://my-bucket/area.json", "--task=gs://my-bucket/tasks/poles.yaml")
    assert line[1:] == [f"--polygon_file={tmp_path}/polygon_file.json", f"--task={tmp_path}/task.yaml"]
    assert (tmp_path / "polygon_file.json").read_bytes() == b"{}"
    assert (tmp_path / "task.yaml").read_bytes() == b"name: poles\n"


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--runner=FnApiRunner", "a template always runs on Dataflow"),
        ("--direct_num_workers=4", "--direct_num_workers is not a parameter of this template"),
        ("--lane=sql", "--lane=sql: BigQuery calls the model, so Dataflow workers would only wait"),
        ("--json=true", "--json is not a parameter of this template"),
        ("--polygon_file=area.json", "the launcher of the template cannot read it; copy the file to gs://bucket/path"),
        ("--config=gs://my-bucket/none.yaml", "--config=gs://my-bucket/none.yaml: object not found"),
        ("--task=tasks/poles.yaml", "--task=tasks/poles.yaml: the launcher of the template cannot read it"),
        ("--task=poles.yaml", "--task=poles.yaml: the launcher of the template cannot read it"),
    ],
)
def test_rejects_parameters_that_templates_lack(tmp_path: Path, job: str, argument: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments(tmp_path, f"--job={job}", argument)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("job", "argument", "said"),
    [
        (
            "classify",
            "--no_wait=true",
            "a template does not wait for batch jobs; imagebeam batch collect collects their answers",
        ),
        ("embed", "--vector_index=true", "run imagebeam embed --vector_index later"),
        ("embed", "--rows_per_job=7", "templates do not support lane sql; use imagebeam embed --lane=sql"),
    ],
)
def test_rejects_parameters_of_another_job_with_a_hint(tmp_path: Path, job: str, argument: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments(tmp_path, f"--job={job}", argument)
    assert said in str(caught.value)


BASE = {
    "results": "answers",
    "source": "d.t",
    "project": "my-project",
    "region": "europe-west6",
    "work_dir": "gs://my-bucket/imagebeam",
    "temp_location": "gs://my-bucket/temp",
}
OWN = {"classify": {"task": "image_quality"}, "embed": {"job": "embed", "dimension": "768"}}
#: Invalid parameters of every job, and the message.
MISTAKES = [
    (["--source="], "no source: set --source"),
    (["--promt=x"], "unknown flag --promt"),
    (["--yes=1"], "--yes takes true or false, not '1'"),
    (["--yes=on"], "--yes takes true or false, not 'on'"),
    (["--yes=TRUE", "--work_dir=/tmp/runs"], "--work_dir=/tmp/runs is a local directory"),
    (["--temp_location=/tmp"], "--temp_location=/tmp: Dataflow workers cannot read it"),
    (["--region=europe"], "--region=europe is not a Google Cloud region"),
    (["--region=us-central1-a"], "--region=us-central1-a is a zone; its region is us-central1"),
    (["--query=SELECT 1"], "--source and --query are both given"),
    (["--num_workers=2", "--max_num_workers=3"], "--num_workers=2 and --max_num_workers=3 differ"),
    (["--batch_source=bigquery"], "--batch_source"),
    (["--polygon_file=gs:///x"], "gs:///x is not an object in Cloud Storage"),
    (["--runner=PortableRunner"], "a template always runs on Dataflow"),
]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(("more", "said"), MISTAKES)
def test_reports_invalid_parameters_in_one_line(
    job: str, more: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in launcher_error({**BASE, **OWN[job]}, more, monkeypatch)


@pytest.mark.parametrize(
    ("job", "more", "said"),
    [
        ("classify", ["--task="], "no task: set --task=NAME"),
        ("classify", ["--dimension=768"], "unknown flag --dimension"),
        ("classify", ["--lane=batch", "--transport=inline"], "--lane=batch sends images by URI"),
        ("classify", ["--max_images=2", "--unit=observation"], "--max_images requires --unit=asset"),
        ("embed", ["--task=image_quality"], "unknown flag --task"),
        ("embed", ["--dimension=9999"], "9999"),
        ("embed", ["--padding=0.1"], "--padding has no effect without --crop=bbox"),
        ("embed", ["--transport=uri", "--max_side=640"], "use --transport=inline or auto"),
        ("embed", ["--job=describe"], "there is no template for describe; there is one for classify, embed"),
    ],
)
def test_reports_invalid_parameters_of_one_job_in_one_line(
    job: str, more: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in launcher_error({**BASE, **OWN[job]}, more, monkeypatch)


def launcher_error(base: dict[str, str], more: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line with which the launcher ends."""
    monkeypatch.setenv("IMAGEBEAM_SDK_IMAGE", "example.com/imagebeam:1")
    given = dict(base)
    for argument in more:
        name, _, value = argument.removeprefix("--").partition("=")
        given[name] = value
    with captured() as (out, err):
        code = flex_template.main([f"--{name}={value}" for name, value in given.items()])
    assert (code, out.getvalue()) == (2, "")
    (line,) = err.getvalue().splitlines()
    assert line.startswith("imagebeam: ")
    return line


def test_reads_files_from_cloud_storage(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = storage.Client().create_bucket("template-files")
    bucket.blob("q.sql").upload_from_string("SELECT 1 FROM nothing_of_that_name.at_all")
    monkeypatch.setenv("IMAGEBEAM_SDK_IMAGE", "example.com/imagebeam:1")
    options = [
        "--task=image_quality",
        "--results=answers",
        "--region=europe-west6",
        "--work_dir=gs://template-files/imagebeam",
        "--project=imagebeam-local",
    ]
    # The query was read, because BigQuery rejects it.
    for name, message in (("q.sql", "nothing_of_that_name"), ("none.sql", "none.sql: object not found")):
        with captured() as (_, err):
            assert flex_template.main([*options, f"--query_file=gs://template-files/{name}"]) == 2
        assert message in err.getvalue().splitlines()[-1]
