"""Versions of tasks as a run uses them: what is sent is part of the version, what the model ignores is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.gemini.requests import request_frame
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.task import ImageSettings, Task

MODELS = catalog.load_models_file()
ENDPOINT = "projects/p/locations/us-central1/endpoints/123"


def load(document: dict[str, Any], model: str | None = None) -> Task:
    text = yaml.safe_dump({"name": "look", "prompt": "What is it?", **document}, sort_keys=False)
    return catalog.build_task(catalog.TaskFile("look", "look.yaml", text, shipped=False), MODELS, model=model)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("describe", "3c34607cbdd3"),
        ("image_quality", "e84df20ae356"),
        ("road_sign", "19c8322762a1"),
        ("utility_pole", "3c33ae9a8fe7"),
    ],
)
def test_versions_of_shipped_tasks_are_stable(name: str, version: str, tmp_path: Path) -> None:
    """A changed version makes every recorded answer outdated."""
    assert catalog.load_task(name, MODELS, tmp_path).version == version


@pytest.mark.parametrize(
    ("document", "version"),
    [
        ({}, "1484d9e7cdc0"),
        ({"system": "Be brief."}, "2dd8f0cc0151"),
        ({"unit": "asset", "max_images": 3}, "6fc8b6b569c8"),
        ({"media_resolution": "low"}, "09fcaece1335"),
        ({"image": {"crop": "bbox", "padding": 0.1, "max_side": 512, "quality": 80}}, "1b95ed4f2a2b"),
        (
            {
                "schema": {
                    "type": "object",
                    "properties": {"kind": {"type": "string", "enum": ["a", "b"]}},
                    "required": ["kind"],
                }
            },
            "e930e7b28cd6",
        ),
        ({"generation": {"seed": 7, "max_output_tokens": 300, "thinking": "low"}}, "480fa0080415"),
        ({"model": "gemini-2.5-flash", "generation": {"temperature": 0.2}}, "9619a1481a4a"),
        ({"model": "gemini-2.5-flash", "generation": {"top_p": 0.9}}, "4da76f04565f"),
        (
            {
                "model": "gemini-2.5-flash",
                "generation": {
                    "temperature": 0.25,
                    "top_p": 0.5,
                    "seed": 7,
                    "max_output_tokens": 300,
                    "thinking": 512,
                },
            },
            "f5b0dbc5c13f",
        ),
        ({"model": "gemini-3.1-flash-lite", "generation": {"temperature": 0, "thinking": "high"}}, "21775233f92b"),
        ({"model": "gemini-3.5-flash", "generation": {"temperature": 1.5}}, "d66907d1d3c6"),
        ({"model": ENDPOINT, "generation": {"temperature": 0.2, "top_p": 0.9}}, "f8a707bacc64"),
    ],
)
def test_versions_of_settings_that_are_sent_are_stable(document: dict[str, Any], version: str) -> None:
    """The same for every kind of setting, with models that honor it."""
    assert load(document).version == version


def test_versions_of_embedding_tasks_are_stable() -> None:
    assert embed_task("gemini-embedding-2", 768).version == "039c4d661647"
    assert embed_task("multimodalembedding@001", 512, ImageSettings(max_side=512)).version == "8c4ad351f5a7"


GENERATION: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.2, 1.5]),
        "top_p": st.sampled_from([0.1, 0.9]),
        "seed": st.integers(0, 2),
        "max_output_tokens": st.sampled_from([100, 300]),
        "thinking": st.sampled_from(["low", "high"]),
    },
)


NAMES = ("temperature", "top_p", "seed", "max_output_tokens", "thinking")
SENT_AS = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "max_output_tokens": "maxOutputTokens",
    "thinking": "thinkingConfig",
}


def ignored_by(model: str) -> set[str]:
    """Settings that a model does not take, from the data: an independent second opinion."""
    profile = MODELS.profile(model)
    return ({"temperature", "top_p"} if profile.fixed_sampling else set()) | (
        {"thinking"} if profile.thinking.param == "none" else set()
    )


@given(GENERATION, GENERATION, st.sampled_from([*MODELS.profiles, ENDPOINT]))
def test_only_settings_that_the_model_honors_change_the_version(
    one: dict[str, Any], two: dict[str, Any], model: str
) -> None:
    honored = [{name: value for name, value in keys.items() if name not in ignored_by(model)} for keys in (one, two)]
    first, second = (load({"model": model, "generation": keys}) for keys in (one, two))
    assert (first.version == second.version) == (honored[0] == honored[1])
    assert set(first.ignored_settings) == set(one) & ignored_by(model)


@given(GENERATION, st.sampled_from([*MODELS.profiles, ENDPOINT]))
def test_version_definition_and_request_agree_on_what_is_sent(keys: dict[str, Any], model: str) -> None:
    task = load({"model": model, "generation": keys})
    request = request_frame(task, MODELS.profile(model), {}).get("generationConfig", {})
    recorded = task.definition()["generation"]
    for name in NAMES:
        sent = name in keys and name not in ignored_by(model)
        assert ((SENT_AS[name] in request), (recorded[name] is not None)) == (sent, sent)


@given(GENERATION, st.sampled_from([*MODELS.profiles]), st.sampled_from([*MODELS.profiles]))
def test_a_model_override_decides_which_settings_count(keys: dict[str, Any], written: str, used: str) -> None:
    overridden = load({"model": written, "generation": keys}, model=used)
    assert overridden == load({"model": used, "generation": keys})


def test_an_unknown_model_keeps_every_setting() -> None:
    task = load({"model": "gemini-9", "generation": {"temperature": 0.2}})
    assert (task.generation.temperature, task.ignored_warnings()) == (0.2, ())


def test_warns_in_one_line_per_ignored_setting() -> None:
    assert load({"generation": {"temperature": 0.2, "top_p": 0.9, "seed": 7}}).ignored_warnings() == (
        "model gemini-3.5-flash-lite ignores generation.temperature: not sent, not part of the version",
        "model gemini-3.5-flash-lite ignores generation.top_p: not sent, not part of the version",
    )
    assert load({"model": "gemini-2.5-flash", "generation": {"temperature": 0.2}}).ignored_warnings() == ()


@given(GENERATION, st.sampled_from([*MODELS.profiles, ENDPOINT]), st.booleans())
def test_recorded_definition_gives_the_same_version(keys: dict[str, Any], model: str, asset: bool) -> None:  # noqa: FBT001
    more: dict[str, Any] = {"unit": "asset", "max_images": 3} if asset else {"image": {"crop": "bbox"}, "system": "Hi."}
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    task = load({"model": model, "generation": keys, "schema": schema, **more})
    again = Task.from_definition(task.name, json.loads(json.dumps(task.definition())))
    assert (again.version, again.columns()) == (task.version, task.columns())
