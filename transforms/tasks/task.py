"""A task: prompt, answer schema and generation settings, read from a YAML file.

The **version** of a task covers everything that is sent and can change an answer. Name, description and the order of
keys in the file are not part of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, UnitKind
from imagebeam.transforms.core.strict_yaml import Section, load_mapping, show, suggestion
from imagebeam.transforms.tasks import task_keys
from imagebeam.transforms.tasks.answer_schema import Schema, bigquery_type, read_schema
from imagebeam.transforms.tasks.model_names import parse_model_name

# Part of every version: increase it when gemini/requests.py builds a different request from the same task.
REQUEST_FORMAT = 1
PROMPT_FIELDS = (
    "unit_id",
    "asset_id",
    "asset_type",
    "capture_time",
    "heading",
    "latitude",
    "longitude",
    "image_count",
)

# Words in double braces, such as {{capture_time}} or {{extra.district}}. JSON such as {{"a": 1}} does not match.
FIELD = re.compile(r"\{\{\s*([A-Za-z_][\w. -]*?)\s*\}\}")
_EXTRA = re.compile(r"extra\.[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_RESERVED_NAMES = frozenset({"outcomes", "runs", "task_versions", "dead_letters"})


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """Generation settings; None uses the model's default.

    Attributes:
        temperature: 0 to 2; newer models ignore it.
        top_p: 0 to 1; newer models ignore it.
        seed: 0 to 2³¹−1, best effort.
        max_output_tokens: 1 to 65,536, thoughts included.
        thinking: ``minimal``, ``low``, ``medium``, ``high``, or a budget in tokens for models that accept one.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    thinking: str | int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ImageSettings:
    """Image preprocessing; any value but the default requires inline transport.

    Attributes:
        crop: ``bbox`` crops the image to the observation's bounding box.
        padding: Margin around the box, as a fraction of its longer side, 0 to 1.
        max_side: Maximum length of the longer side in pixels, 64 to 8192; None keeps the size.
        quality: JPEG quality of changed images, 1 to 100.
    """

    crop: Literal["none", "bbox"] = "none"
    padding: float = 0.0
    max_side: int | None = None
    quality: int = 90

    @property
    def changes_images(self) -> bool:
        """True if images may be changed, so that requests must contain their bytes."""
        return self.crop != "none" or self.max_side is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A typed column of the task's view.

    Attributes:
        name: Name of the column and of the answer's property.
        bigquery_type: ``STRING``, ``FLOAT64``, ``INT64``, ``BOOL``, ``ARRAY<…>`` of one of them, or ``JSON``.
        path: JSONPath into the answer, such as ``$.condition``.
        mode: ``REQUIRED`` (present in every OK answer), ``NULLABLE``, or ``REPEATED`` for arrays of scalars.
    """

    name: str
    bigquery_type: str
    path: str
    mode: Literal["REQUIRED", "NULLABLE", "REPEATED"]


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A task; created by :func:`parse_task`.

    Attributes:
        name: Name of the task and of its view.
        description: Description shown by ``imagebeam tasks``.
        model: Model id, or the resource name of a tuned model or endpoint; any other form is normalized.
        prompt: Prompt; may contain fields such as ``{{capture_time}}``.
        system: System instruction, the same for every unit.
        unit: Whether one call covers an observation or an asset.
        max_images: Maximum number of images of an asset, 1 to 10; 1 for observations.
        schema: Canonical ``responseSchema`` of the answer; None for free text, recorded as ``{"text": …}``.
        generation: Generation settings.
        media_resolution: Resolution at which the model reads images; determines their tokens, and most of the cost.
        image: Image preprocessing.
        ignored_settings: Names of the generation settings in the file that the model ignores; they are None in
            ``generation``, so they are neither sent nor part of the version.
        version: 12 hex digits over everything that can change an answer.
    """

    name: str
    description: str
    model: str
    prompt: str
    system: str | None = None
    unit: UnitKind = UnitKind.OBSERVATION
    max_images: int = 1
    schema: Schema | None = None
    generation: Generation = Generation()
    media_resolution: str = "default"
    image: ImageSettings = ImageSettings()
    ignored_settings: tuple[str, ...] = ()
    version: str = dataclasses.field(init=False)

    #: Lanes that support the task.
    lanes: ClassVar[tuple[Lane, ...]] = (Lane.ONLINE, Lane.FLEX, Lane.BATCH)
    #: Whether ``countTokens``, which is free of charge, supports the task's model.
    counts_tokens: ClassVar[bool] = True

    @property
    def method(self) -> str:
        """REST method of the task's calls."""
        return "generateContent"

    @property
    def vector_dimension(self) -> int | None:
        """Length of the vector that a call returns; None if it returns text."""
        return None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", parse_model_name(self.model).name)
        canonical = json.dumps(self.definition(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        object.__setattr__(self, "version", digest[:12])

    def definition(self) -> dict[str, Any]:
        """Return everything that can change an answer, as JSON values; :attr:`version` is its hash."""
        return {
            "request_format": REQUEST_FORMAT,
            "model": self.model,
            "prompt": self.prompt,
            "system": self.system,
            "unit": self.unit,
            "max_images": self.max_images,
            "schema": self.schema,
            "generation": dataclasses.asdict(self.generation),
            "media_resolution": self.media_resolution,
            "image": dataclasses.asdict(self.image),
        }

    @classmethod
    def from_definition(cls, name: str, definition: Mapping[str, Any]) -> Task:
        """Return the task of a recorded definition, see :meth:`definition`; it has no description."""
        fields = {key: value for key, value in definition.items() if key != "request_format"}
        return cls(
            **{
                **fields,
                "name": name,
                "description": "",
                "unit": UnitKind(fields["unit"]),
                "generation": Generation(**fields["generation"]),
                "image": ImageSettings(**fields["image"]),
            }
        )

    def ignored_warnings(self) -> tuple[str, ...]:
        """Return one line per setting that the model ignores."""
        return tuple(
            f"model {self.model} ignores generation.{name}: not sent, not part of the version"
            for name in self.ignored_settings
        )

    def prompt_fields(self) -> tuple[str, ...]:
        """Return the fields used by the prompt, each once, in order."""
        return tuple(dict.fromkeys(FIELD.findall(self.prompt)))

    def columns(self) -> tuple[Column, ...]:
        """Return the typed columns of the task's view, in the order of the schema."""
        if self.schema is None:
            return (Column("text", "STRING", "$.text", "REQUIRED"),)
        required = self.schema.get("required", ())
        columns = []
        for name in self.schema["propertyOrdering"]:
            schema = self.schema["properties"][name]
            column_type = bigquery_type(schema)
            always = name in required and not schema.get("nullable")
            mode = "REPEATED" if column_type.startswith("ARRAY<") else "REQUIRED" if always else "NULLABLE"
            columns.append(Column(name, column_type, f"$.{name}", cast("Any", mode)))
        return tuple(columns)


def parse_task(text: str, *, source: str, default_model: str) -> Task:
    """Parse a task file; :func:`~catalog.load_task` also drops the settings that the model ignores.

    Args:
        text: The YAML document.
        source: Name of the document in messages, usually its path.
        default_model: Model of a task without one.

    Raises:
        UserError: The task is invalid; the message has the file, the key path and the fix.
    """
    section = load_mapping(text, source)
    keys = task_keys.TASK
    section.allow(keys)
    name = keys["name"].read(section)
    _check_name(section, name)
    prompt = keys["prompt"].read(section).strip()
    _check_fields(section, prompt)
    system = section.text("system").strip() if "system" in section else None
    if system and FIELD.search(system):
        section.fail("system", "cannot have fields, because it is the same for every unit: move them to the prompt")
    unit = UnitKind(keys["unit"].read(section))
    if unit == UnitKind.OBSERVATION and "max_images" in section:
        section.fail("max_images", "requires `unit: asset`: an observation has one image, so remove it")
    return Task(
        name=name,
        description=section.text("description").strip() if "description" in section else "",
        model=_read_model(section, default_model),
        prompt=prompt,
        system=system,
        unit=unit,
        max_images=keys["max_images"].read(section) if unit == UnitKind.ASSET else 1,
        schema=read_schema(section.section("schema")) if "schema" in section else None,
        generation=_read_generation(section.section("generation")),
        media_resolution=keys["media_resolution"].read(section),
        image=_read_image(section.section("image")),
    )


def _check_name(section: Section, name: str) -> None:
    if not _NAME.fullmatch(name):
        section.fail(
            "name",
            f"{show(name)} must be at most 48 lowercase letters, digits and _, and start with a letter",
        )
    if name in _RESERVED_NAMES or name.startswith("embeddings") or name.endswith("_history"):
        section.fail("name", f"{name} is the name of a table or view created by imagebeam: use another name")


def _read_model(section: Section, default_model: str) -> str:
    try:
        return parse_model_name(section.text("model", default_model).strip() or default_model).name
    except UserError as error:
        section.fail("model", str(error))


def _check_fields(section: Section, prompt: str) -> None:
    for field in FIELD.findall(prompt):
        if field not in PROMPT_FIELDS and not _EXTRA.fullmatch(field):
            section.fail(
                "prompt",
                f"unknown field {{{{{field}}}}}{suggestion(field, PROMPT_FIELDS)}; known fields are "
                f"{', '.join(PROMPT_FIELDS)}, and extra.NAME for columns in --keep_columns",
            )


def _read_generation(section: Section) -> Generation:
    section.allow(task_keys.GENERATION)
    return Generation(**{name: key.read(section) for name, key in task_keys.GENERATION.items()})


def _read_image(section: Section) -> ImageSettings:
    section.allow(task_keys.IMAGE)
    image = ImageSettings(**{name: key.read(section) for name, key in task_keys.IMAGE.items()})
    # A setting without effect would change the version unnecessarily.
    if "padding" in section and image.crop == "none":
        section.fail("padding", "has no effect without `crop: bbox`: remove it")
    if "quality" in section and not image.changes_images:
        section.fail("quality", "has no effect on images that are not changed: remove it")
    return image
