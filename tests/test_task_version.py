"""Versions of tasks as a run uses them: what is sent is part of the version, what the model ignores is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.task import ImageSettings, Task

MODELS = catalog.load_models_file()
ENDPOINT = "projects/p/locations/us-central1/endpoints/123"


def load(document: dict[str, Any], directory: Path) -> Task:
    path = directory / "look.yaml"
    path.write_text(yaml.safe_dump({"name": "look", "prompt": "What is it?", **document}, sort_keys=False))
    return catalog.load_task(str(path), MODELS, directory)


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
def test_versions_of_settings_that_are_sent_are_stable(
    document: dict[str, Any], version: str, tmp_path: Path
) -> None:
    """The same for every kind of setting, with models that honor it."""
    assert load(document, tmp_path).version == version


def test_versions_of_embedding_tasks_are_stable() -> None:
    assert embed_task("gemini-embedding-2", 768).version == "039c4d661647"
    assert embed_task("multimodalembedding@001", 512, ImageSettings(max_side=512)).version == "8c4ad351f5a7"
