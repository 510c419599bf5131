"""The reference of task files and answer schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from docs.generate.markdown import NOTICE, code, paragraph, table
from imagebeam.transforms.tasks import task_keys
from imagebeam.transforms.tasks.answer_schema import FORMATS, KEYWORDS, MAX_DEPTH, UNSUPPORTED, bigquery_type
from imagebeam.transforms.tasks.task import PROMPT_FIELDS
from imagebeam.transforms.tasks.task_keys import Key

_INTRODUCTION: Final = f"""\
# Task files

{NOTICE}
A task is a YAML file: `tasks/NAME.yaml` below the working directory, a shipped task, or any path given with
`--task=FILE`. `imagebeam tasks new NAME` writes one with every key explained, `imagebeam tasks check FILE` validates
it, and `imagebeam tasks show NAME` prints its version and columns. Unknown keys are errors.

The **version** of a task is 12 hex digits of a hash of everything that is sent and can change an answer. `name`,
`description`, comments, the order of keys, and settings that the model ignores are not part of it. After a change of
anything else, existing answers are *outdated*: they are kept, and reprocessed only with `--reprocess=outdated`.
"""
_EXAMPLE_TYPES: Final[Mapping[str, Mapping[str, object]]] = {
    "STRING": {"type": "STRING"},
    "NUMBER": {"type": "NUMBER"},
    "INTEGER": {"type": "INTEGER"},
    "BOOLEAN": {"type": "BOOLEAN"},
    "ARRAY": {"type": "ARRAY", "items": {"type": "STRING"}},
    "OBJECT": {"type": "OBJECT"},
}


def build_page() -> str:
    """Return the page as Markdown."""
    types = (
        [f"`{kind.lower()}`", _column_type(kind), code(*(name for name in keywords if name != "type"))]
        for kind, keywords in KEYWORDS.items()
    )
    return "\n".join(
        [
            _INTRODUCTION,
            "## Keys\n",
            _keys(task_keys.TASK),
            paragraph(
                f"Fields of the prompt: {code(*(f'{{{{{name}}}}}' for name in PROMPT_FIELDS))}, and",
                "`{{{{extra.NAME}}}}` for columns of the source in `--keep_columns`.",
            ),
            "## `generation`\n",
            "An absent key leaves the model's default.\n",
            _keys(task_keys.GENERATION),
            "## `image`\n",
            _keys(task_keys.IMAGE),
            "## `schema`\n",
            paragraph(
                f"The answer is an object with at most {MAX_DEPTH} levels. Its properties become the columns of the",
                "view. The schema is sent as Gemini's `responseSchema`, and each answer is validated against it.",
            ),
            table(["type", "column of the view", "keywords"], types),
            paragraph(
                f"`format` is one of {code(*FORMATS)}. An array of objects, or of values that can be null, is a `JSON`",
                "column.",
            ),
            "Keywords of JSON Schema that Gemini or its batch jobs do not support:\n",
            table(["keyword", "instead"], ([f"`{name}`", instead] for name, instead in UNSUPPORTED.items())),
        ]
    )


def _keys(keys: Mapping[str, Key]) -> str:
    rows = ([f"`{key.name}`", _values(key), _default(key), key.meaning] for key in keys.values())
    return table(["key", "value", "default", "meaning"], rows)


def _values(key: Key) -> str:
    words = code(*key.choices)
    numbers = f"{key.kind.rpartition(' ')[2]} from {key.low:,.0f} to {key.high:,.0f}"
    if key.kind == "word":
        return words
    if key.kind == "word or integer":
        return f"{words}, or {numbers}"
    return numbers if key.high else key.kind


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "" if key.default in (None, "") else code(key.default)


def _column_type(kind: str) -> str:
    example = _EXAMPLE_TYPES[kind]
    return f"`{bigquery_type(example).replace('<STRING>', '<…>')}`"
