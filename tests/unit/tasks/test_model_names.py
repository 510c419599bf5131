"""Names of models: every form means the same model, and normalizing twice changes nothing."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.tasks.model_names import ModelKind, parse_model_name
from imagebeam.transforms.tasks.task import Task, parse_task

IDS = st.from_regex(r"[a-z][a-z0-9]{0,8}(?:[.-][a-z0-9]{1,6}){0,4}", fullmatch=True)
PLACES = st.tuples(
    st.sampled_from(["p", "my-project", "google.com:p", "123456"]), st.sampled_from(["global", "us-east5"])
)


@given(IDS, st.sampled_from(["", "@001", "@default", "@2.5"]), PLACES)
def test_all_forms_of_a_publisher_model_are_one_name(model: str, version: str, place: tuple[str, str]) -> None:
    path = f"publishers/google/models/{model}{version}"
    project, location = place
    forms = [
        model + version,
        f"google/{model}{version}",
        path,
        f" {path} ",
        f"projects/{project}/locations/{location}/{path}",
    ]
    parsed = [parse_model_name(form) for form in forms]
    assert {each.name for each in parsed} == {model + version.removesuffix("@default")}
    assert {(each.kind, each.base, each.is_tuned) for each in parsed} == {(ModelKind.PUBLISHER, model, False)}
    assert [each.location for each in parsed] == [None] * 4 + [location]
    assert parse_model_name(parsed[0].name).name == parsed[0].name


@given(IDS, st.sampled_from(["", "@1", "@default"]), PLACES)
def test_tuned_models_keep_their_name_and_have_a_location(number: str, version: str, place: tuple[str, str]) -> None:
    project, location = place
    base = f"projects/{project}/locations/{location}/models/{number}"
    parsed = parse_model_name(base + version)
    assert (parsed.name, parsed.base, parsed.kind) == (base + version, base, ModelKind.MODEL)
    assert (parsed.project, parsed.location, parsed.is_tuned) == (project, location, True)
    endpoint = parse_model_name(base.replace("/models/", "/endpoints/"))
    assert (endpoint.kind, endpoint.location, endpoint.is_tuned) == (ModelKind.ENDPOINT, location, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gemini 2.5",
        "models/gemini-2.5-flash",
        "publishers/anthropic/models/x",
        "anthropic/x",
        "gemini-2.5-flash@",
        "projects/p/locations/us-central1/models/",
        "projects/p/locations/us-central1/endpoints/1@2",
        "projects/p/locations/us-central1/tuningJobs/1",
        "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/models/1",
    ],
)
def test_rejects_other_texts_with_the_forms(text: str) -> None:
    with pytest.raises(UserError, match=r"is not the name of a model: use an id such as .*publishers/google/models/ID"):
        parse_model_name(text)


def task_of(model: str) -> Task:
    text = yaml.safe_dump({"name": "look", "prompt": "What is it?", "model": model})
    return parse_task(text, source="look.yaml", default_model="gemini-3.5-flash-lite")


def test_version_of_a_task_does_not_depend_on_the_form() -> None:
    forms = ["gemini-2.5-flash", "google/gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash@default"]
    assert len({task_of(form).version for form in forms}) == 1
    with pytest.raises(UserError, match=r"^look.yaml: model: 'a b' is not the name of a model"):
        task_of("a b")
