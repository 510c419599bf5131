"""Templates: what the console asks for is what the job takes, and all versions in the image are the same."""

import ast
import json
import re

import pytest
import yaml
from google.cloud.dataflow_v1beta3 import (
    ContainerSpec,
    LaunchFlexTemplateParameter,
    ParameterMetadata,
    ParameterType,
    TemplateMetadata,
)
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from support.paths import ROOT

from imagebeam.pipeline.dataflow import template_metadata
from imagebeam.pipeline.dataflow.template_metadata import (
    CHANGING_DEFAULTS,
    FILES,
    NO_PARAMETERS,
    NO_VALUES,
    REQUIRED,
)
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.setting import Flags, Kind, Setting
from imagebeam.pipeline.run.embed_settings import DEFAULT_JOB, JOBS
from imagebeam.transforms.core.errors import UserError

TEMPLATES = ROOT / "templates"
DOCKERFILE = (TEMPLATES / "Dockerfile").read_text(encoding="utf-8")


def checked_in(job: str) -> TemplateMetadata:
    """The file, read by the Dataflow client's own type, which refuses what it does not know."""
    text = (TEMPLATES / f"{job}.json").read_text(encoding="utf-8")
    read: TemplateMetadata = TemplateMetadata.from_json(text, ignore_unknown_fields=False)
    return read


PARAMETERS: dict[str, dict[str, ParameterMetadata]] = {
    job: {parameter.name: parameter for parameter in checked_in(job).parameters} for job in JOBS
}
FLAGS: dict[str, Flags] = {name: job.flags for name, job in JOBS.items()}
#: Deprecated names, which a template accepts and does not show.
ALIASES = {alias for flag in FLAGS["classify"].values() for alias in flag.aliases}
#: Every parameter that is a flag of its job.
EACH = [(job, name) for job, parameters in PARAMETERS.items() for name in parameters if name in FLAGS[job]]


@pytest.mark.parametrize("job", JOBS)
def test_file_matches_the_declarations(job: str) -> None:
    made = template_metadata.text(JOBS[job])
    written = (TEMPLATES / f"{job}.json").read_text(encoding="utf-8")
    assert made == written, f"run: imagebeam template metadata {job} > templates/{job}.json"


def test_every_job_has_a_file() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.json")} == set(JOBS) == {"classify", "embed"}


@pytest.mark.parametrize("job", JOBS)
def test_parameters_are_flags_except_documented_ones(job: str) -> None:
    named = set() if job == DEFAULT_JOB else {"job"}
    assert set(PARAMETERS[job]) == set(FLAGS[job]) - set(NO_PARAMETERS) | named | ALIASES
    assert {name for name, parameter in PARAMETERS[job].items() if parameter.hidden_ui} == ALIASES | {"due"}
    assert len(PARAMETERS[job]) == len(checked_in(job).parameters)
    assert {name for name, parameter in PARAMETERS[job].items() if not parameter.is_optional} == (
        REQUIRED & (set(FLAGS[job]) | named)
    )


def test_exceptions_name_existing_flags() -> None:
    flags = {name for job in JOBS for name in FLAGS[job]}
    assert set(NO_PARAMETERS) | CHANGING_DEFAULTS | REQUIRED - {"job"} | set(FILES) <= flags
    assert {name for name, _ in NO_VALUES} <= flags


def test_templates_other_than_classify_require_the_job() -> None:
    assert "job" not in PARAMETERS["classify"]
    said = PARAMETERS["embed"]["job"]
    assert not said.is_optional, "a default would not be sent"
    assert [option.value for option in said.enum_options] == ["embed"]


@pytest.mark.parametrize(("job", "name"), EACH)
def test_parameter_matches_its_flag(job: str, name: str) -> None:
    parameter, flag = PARAMETERS[job][name], FLAGS[job][name]
    assert parameter.label
    assert parameter.help_text.endswith(".")
    assert parameter.group_name == str(flag.group)
    assert [option.value for option in parameter.enum_options] == choices(flag)
    if parameter.default_value:
        assert flag_values.read(flag, parameter.default_value, where=name) == flag.default
    elif name not in REQUIRED | CHANGING_DEFAULTS and name not in FILES:
        assert flag.computed or flag.default in (None, (), {})


def choices(flag: Setting) -> list[str]:
    return [choice for choice in flag.choices if (flag.name, choice) not in NO_VALUES]


def test_hides_defaults_that_depend_on_the_lane() -> None:
    for name in CHANGING_DEFAULTS:
        assert FLAGS["classify"][name].default is not None
        assert not any(parameters[name].default_value for parameters in PARAMETERS.values())


def test_help_names_values_that_a_template_lacks() -> None:
    lane = PARAMETERS["embed"]["lane"]
    assert "sql" not in [option.value for option in lane.enum_options]
    assert lane.help_text.endswith("Not in a template: sql.")
    assert "batch" in [option.value for option in PARAMETERS["classify"]["lane"].enum_options]


@pytest.mark.parametrize(("job", "name"), EACH)
def test_patterns_are_portable_and_match_defaults_and_examples(job: str, name: str) -> None:
    parameter, flag = PARAMETERS[job][name], FLAGS[job][name]
    good = [text for text in (parameter.default_value, *examples(flag)) if text]
    for pattern in parameter.regexes:
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        # Java, JavaScript and RE2 have these in common with Python; names of groups and great counts they have not.
        assert "(?P" not in pattern
        assert all(int(count) <= 1000 for count in re.findall(r"\{(?:\d+,)?(\d+)\}", pattern))
        for text in good:
            assert re.search(pattern, text), (pattern, text)
        assert not re.search(pattern, "!")


def examples(flag: Setting) -> list[str]:
    if flag.name == "task":
        return [flag.example, "gs://my-bucket/tasks/poles.yaml"]
    return [f"gs://my-bucket/{flag.example}"] if flag.name in FILES else [flag.example]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("source", ParameterType.BIGQUERY_TABLE),
        ("work_dir", ParameterType.GCS_WRITE_FOLDER),
        ("polygon_file", ParameterType.GCS_READ_FILE),
        ("query_file", ParameterType.GCS_READ_FILE),
        ("lane", ParameterType.ENUM),
        ("yes", ParameterType.BOOLEAN),
        ("max_cost_usd", ParameterType.NUMBER),
        ("where", ParameterType.TEXT),
    ],
)
def test_parameter_types(job: str, name: str, kind: ParameterType) -> None:
    assert PARAMETERS[job][name].param_type == kind


@given(st.sampled_from([(job, name) for job, name in EACH if name not in {*FILES, "work_dir"}]), st.data())
def test_patterns_accept_every_valid_value(which: tuple[str, str], data: st.DataObject) -> None:
    job, name = which
    flag = FLAGS[job][name]
    value = data.draw(values(flag))
    text = flag_values.to_text(flag, value)
    assert flag_values.read(flag, text, where=name) is not None
    assert all(re.search(pattern, text) for pattern in PARAMETERS[job][name].regexes)


def values(flag: Setting) -> st.SearchStrategy[object]:
    low, high = flag.minimum or 0, flag.maximum or 1e9
    degrees = st.decimals(1, 80, places=3).map(float)
    written = flag_values.read(flag, flag.example, where=flag.name)
    by_kind: dict[Kind, st.SearchStrategy[object]] = {
        Kind.INTEGER: st.integers(int(low), int(high)),
        Kind.NUMBER: st.decimals(low + 1, high, places=2).map(float) if high > low + 1 else st.just(written),
        Kind.BOOLEAN: st.booleans(),
        Kind.CIRCLE: st.tuples(degrees, degrees, degrees),
    }
    if flag.choices:
        return st.sampled_from(choices(flag))
    return by_kind.get(flag.kind or Kind.TEXT, st.just(written))


@pytest.mark.parametrize("job", JOBS)
def test_patterns_reject_local_paths_and_other_booleans(job: str) -> None:
    def takes(name: str, text: str) -> bool:
        return all(re.search(pattern, text) for pattern in PARAMETERS[job][name].regexes)

    assert not takes("work_dir", "/tmp/runs")
    assert not takes("work_dir", "runs")
    assert takes("work_dir", "gs://my-bucket")
    assert not takes("polygon_file", "area.json")
    assert job == "embed" or not takes("task", "tasks/poles.yaml")
    assert not takes("yes", "1")
    assert not takes("yes", "yes")
    assert takes("yes", "True")
    assert not takes("limit", "many")


@pytest.mark.parametrize("job", JOBS)
def test_dataflow_parses_template_and_launch(job: str) -> None:
    spec = {
        "image": "example.com/imagebeam:1",
        "metadata": template_metadata.metadata(JOBS[job]),
        "sdkInfo": {"language": "PYTHON"},
        "defaultEnvironment": {},
    }
    assert ContainerSpec.from_json(json.dumps(spec), ignore_unknown_fields=False).metadata == checked_in(job)
    own = {"classify": {"task": "utility_pole"}, "embed": {"job": "embed"}}
    start = {
        "jobName": "poles",
        "containerSpecGcsPath": f"gs://my-bucket/{job}.json",
        "parameters": {**own[job], "results": "answers", "work_dir": "gs://my-bucket/w", "yes": "true"},
    }
    read = LaunchFlexTemplateParameter.from_json(json.dumps(start), ignore_unknown_fields=False)
    required = {name for name, parameter in PARAMETERS[job].items() if not parameter.is_optional}
    assert required <= set(read.parameters) <= set(PARAMETERS[job])


def test_rejects_a_job_without_template() -> None:
    with pytest.raises(UserError, match="there is no template for clasify; did you mean classify"):
        template_metadata.find_job("clasify")


# The image


def argument(name: str) -> str:
    found = re.search(rf"^ARG {name}=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert found
    return found[1]


def beam_of_setup() -> SpecifierSet:
    texts = re.findall(r'"(apache-beam\[gcp\][^"]*)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    (text,) = texts
    return Requirement(text).specifier


def test_dockerfile_lock_and_setup_agree_on_beam() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert f"apache-beam=={argument('BEAM')}" in lock
    assert argument("BEAM") in beam_of_setup()
    assert "FROM apache/beam_python${PYTHON}_sdk:${BEAM} AS sdk" in DOCKERFILE


def test_dockerfile_launcher_and_setup_agree_on_python() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (wanted,) = [
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "python_requires" and isinstance(keyword.value, ast.Constant)
    ]
    assert Version(argument("PYTHON")) in SpecifierSet(str(wanted))
    (launcher,) = re.findall(r"/python(\d)(\d+)-template-launcher-base:(\S+) ", DOCKERFILE)
    assert ".".join(launcher[:2]) == argument("PYTHON")
    assert launcher[2] != "latest"
    assert "FROM python:${PYTHON}-slim" in DOCKERFILE


def test_image_is_pinned_and_complete() -> None:
    assert re.search(
        r"^RUN pip install .*--constraint requirements\.lock \. \\\n +&& pip check$", DOCKERFILE, re.MULTILINE
    )
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    }
    assert {"setup.py", "pyproject.toml", "README.md", "requirements.lock", "templates/main.py"} <= copied
    assert {"pipeline", "transforms"} <= copied
    assert "emulators" not in copied
    assert all((ROOT / name).exists() for name in copied)
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in DOCKERFILE
    assert "ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py" in DOCKERFILE
    # A list of requirements would be installed again by every launch.
    assert "REQUIREMENTS_FILE" not in DOCKERFILE


def test_the_launcher_runs_three_lines() -> None:
    tree = ast.parse((TEMPLATES / "main.py").read_text(encoding="utf-8"))
    assert (
        len([node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))])
        == 3
    )


def test_cloud_build_passes_the_image_name() -> None:
    steps = yaml.safe_load((TEMPLATES / "cloudbuild.yaml").read_text(encoding="utf-8"))
    (step,) = steps["steps"]
    assert step["args"] == [
        "build",
        "--file=templates/Dockerfile",
        "--build-arg=IMAGE=${_IMAGE}",
        "--tag=${_IMAGE}",
        ".",
    ]
    assert steps["images"] == ["${_IMAGE}"]
    assert "ARG IMAGE\n" in DOCKERFILE
    assert "ENV IMAGEBEAM_SDK_IMAGE=${IMAGE}" in DOCKERFILE
