"""Tasks from a prompt: the same task as a file with this prompt, and one line about every mistake."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.task import Task

MODELS = catalog.load_models_file()
PROMPT = "What is in this image?"
SCHEMA: dict[str, Any] = {"type": "OBJECT", "properties": {"kind": {"type": "STRING", "enum": ["pole", "sign"]}}}


def build(cwd: Path, prompt: str = PROMPT, schema: str | None = None, name: str = "contents") -> Task:
    return catalog.build_task(catalog.prompt_task(name, prompt, Path(schema) if schema else None, cwd), MODELS)


def from_file(**document: Any) -> Task:
    text = yaml.safe_dump({"name": "contents", "prompt": PROMPT, **document})
    return catalog.build_task(catalog.TaskFile("contents", "contents.yaml", text, shipped=False), MODELS)


def test_answers_are_text_without_a_schema(tmp_path: Path) -> None:
    task = build(tmp_path)
    assert task == from_file()
    assert [(column.name, column.bigquery_type) for column in task.columns()] == [("text", "STRING")]
    assert task.model == MODELS.default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("answer.json", json.dumps(SCHEMA, indent="\t")),
        ("answer.yaml", yaml.safe_dump(SCHEMA)),
        ("schema", "{type: object, properties: {kind: {type: string, enum: [pole, sign]}}}"),
    ],
)
def test_schema_is_json_or_yaml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert build(tmp_path, schema=name) == from_file(schema=SCHEMA)
    assert build(tmp_path, schema=name).version != build(tmp_path).version


@given(st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_prompt_is_kept_as_given(prompt: str) -> None:
    with tempfile.TemporaryDirectory() as empty:
        assert build(Path(empty), prompt).prompt == prompt.strip()


@pytest.mark.parametrize(
    ("prompt", "schema", "name", "message"),
    [
        (PROMPT, None, "describe", "--prompt and task describe (shipped) are both named describe: use another --task"),
        (PROMPT, None, "mine", "--prompt and task tasks/mine.yaml are both named mine: use another --task"),
        (PROMPT, None, "tasks/mine.yaml", "--prompt needs the name of a task, such as --task=contents, not the file"),
        (PROMPT, None, "My Task", "--task=My Task: name: 'My Task' must be at most 48 lowercase letters"),
        ("{{asset_typ}}", None, "a", "--task=a: prompt: unknown field {{asset_typ}}; did you mean asset_type?"),
        (PROMPT, "none.json", "a", "file none.json does not exist"),
        (PROMPT, "bad.json", "a", "bad.json, line 2: not YAML: "),
        (PROMPT, "bad.yaml", "a", "bad.yaml: properties.kind.type: "),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, prompt: str, schema: str | None, name: str, message: str) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("name: mine\nprompt: Mine?\n")
    (tmp_path / "bad.json").write_text('{"type": "OBJECT",\n "properties" {}}')
    (tmp_path / "bad.yaml").write_text("type: object\nproperties: {kind: {type: strng}}\n")
    with pytest.raises(UserError) as caught:
        build(tmp_path, prompt, schema, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
