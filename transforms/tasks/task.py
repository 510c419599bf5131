"""A task: what is asked about every unit, and how the answer must look. Read from a YAML file.

Everything that can change an answer is part of the task's **version**; what cannot (the description, the
name, the order of keys in the file) is not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any, Literal, cast

from imagebeam.transforms.core.records import UnitKind
from imagebeam.transforms.core.strict_yaml import Section, load_mapping, show, suggestion
from imagebeam.transforms.tasks.answer_schema import Schema, bigquery_type, read_schema

# Part of every version: it rises when the same task would be sent differently (requests.py).
REQUEST_FORMAT = 1
THINKING_WORDS = ("minimal", "low", "medium", "high")
MEDIA_RESOLUTIONS = ("default", "low", "medium", "high", "ultra_high")
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

# {{capture_time}}, {{extra.district}}: words in double braces. JSON in a prompt has none: {{"a": 1}} stays.
FIELD = re.compile(r"\{\{\s*([A-Za-z_][\w. -]*?)\s*\}\}")
_EXTRA = re.compile(r"extra\.[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_TAKEN_NAMES = frozenset({"outcomes", "runs", "task_versions", "dead_letters"})
_KEYS = (
    "name",
    "description",
    "model",
    "prompt",
    "system",
    "unit",
    "max_images",
    "schema",
    "generation",
    "media_resolution",
    "image",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """How the model writes; None leaves it to the model's default.

    Attributes:
        temperature: 0 to 2; newer models ignore it.
        top_p: 0 to 1; newer models ignore it.
        seed: 0 to 2³¹−1, best effort.
        max_output_tokens: 1 to 65,536; thoughts count too.
        thinking: ``minimal``, ``low``, ``medium``, ``high``, or a budget in tokens for models that take one.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    thinking: str | int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ImageSettings:
    """What is done to an image before it is sent; anything but the default needs inline transport.

    Attributes:
        crop: ``bbox`` cuts out the observation's bounding box.
        padding: Margin around it, as a fraction of its longer side, 0 to 1.
        max_side: Longest side in pixels, 64 to 8192; None leaves the size.
        quality: JPEG quality of what was changed, 1 to 100.
    """

    crop: Literal["none", "bbox"] = "none"
    padding: float = 0.0
    max_side: int | None = None
    quality: int = 90

    @property
    def changes_images(self) -> bool:
        """True if an image may be changed, so that its bytes must travel in the request."""
        return self.crop != "none" or self.max_side is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of the task's view.

    Attributes:
        name: Its name, which is the property's.
        bigquery_type: ``STRING``, ``FLOAT64``, ``INT64``, ``BOOL``, ``ARRAY<…>`` of one of them, or ``JSON``.
        path: JSONPath into the answer, such as ``$.condition``.
        mode: ``REQUIRED`` (every OK answer has it), ``NULLABLE``, or ``REPEATED`` for arrays of scalars.
    """

    name: str
    bigquery_type: str
    path: str
    mode: Literal["REQUIRED", "NULLABLE", "REPEATED"]


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A task; made by :func:`parse_task`.

    Attributes:
        name: Name of the task and of its view.
        description: For people.
        model: Model id, or the resource name of a tuned endpoint.
        prompt: What is asked; may hold fields such as ``{{capture_time}}``.
        system: System instruction, the same for every unit.
        unit: What one call is about.
        max_images: Images of an asset that are sent at most, 1 to 10; 1 for observations.
        schema: The answer's canonical ``responseSchema``; None for free text, answered as ``{"text": …}``.
        generation: How the model writes.
        media_resolution: How closely the model looks at an image: its tokens, and most of the price.
        image: What is done to an image before it is sent.
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

    def __post_init__(self) -> None:
        canonical = json.dumps(self.definition(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        object.__setattr__(self, "version", digest[:12])

    def definition(self) -> dict[str, Any]:
        """Everything that can change an answer, as JSON values; :attr:`version` is its hash."""
        definition: dict[str, Any] = {
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
        return definition

    def ignored_warnings(self) -> tuple[str, ...]:
        """Return one line per setting that the model ignores."""
        return tuple(
            f"model {self.model} ignores generation.{name}: not sent, not part of the version"
            for name in self.ignored_settings
        )

    def prompt_fields(self) -> tuple[str, ...]:
        """The fields that the prompt uses, each once, in order."""
        return tuple(dict.fromkeys(FIELD.findall(self.prompt)))

    def columns(self) -> tuple[Column, ...]:
        """The typed columns of the task's view, in the order of the schema."""
        if self.schema is None:
            return (Column("text", "STRING", "$.text", "REQUIRED"),)
        required = self.schema.get("required", ())
        columns = []
        for name in self.schema["propertyOrdering"]:
            schema = self.schema["properties"][name]
            column_type = bigquery_type(schema)
            surely = name in required and not schema.get("nullable")
            mode = "REPEATED" if column_type.startswith("ARRAY<") else "REQUIRED" if surely else "NULLABLE"
            columns.append(Column(name, column_type, f"$.{name}", cast("Any", mode)))
        return tuple(columns)


def parse_task(text: str, *, where: str, default_model: str) -> Task:
    """Read a task as its file states it; :func:`~catalog.load_task` also drops what the model ignores.

    Args:
        text: The YAML document.
        where: What messages call it: usually its path.
        default_model: Model of a task that names none.

    Returns:
        The task.

    Raises:
        UserError: Something is wrong with it; names the file, the key path and the remedy.
    """
    section = load_mapping(text, where)
    section.allow(_KEYS)
    name = section.text("name")
    _check_name(section, name)
    prompt = section.text("prompt").strip()
    _check_fields(section, prompt)
    system = section.text("system").strip() if "system" in section else None
    if system and FIELD.search(system):
        section.fail("system", "is the same for every unit: put fields in double braces into the prompt")
    unit = UnitKind(section.choice("unit", tuple(UnitKind), UnitKind.OBSERVATION))
    if unit == UnitKind.OBSERVATION and "max_images" in section:
        section.fail("max_images", "is for `unit: asset`; an observation has one image: leave it out")
    return Task(
        name=name,
        description=section.text("description").strip() if "description" in section else "",
        model=section.text("model", default_model).strip() or default_model,
        prompt=prompt,
        system=system,
        unit=unit,
        max_images=section.whole("max_images", 1, 10, 10) if unit == UnitKind.ASSET else 1,
        schema=read_schema(section.section("schema")) if "schema" in section else None,
        generation=_read_generation(section.section("generation")),
        media_resolution=section.choice("media_resolution", MEDIA_RESOLUTIONS, "default"),
        image=_read_image(section.section("image")),
    )


def _check_name(section: Section, name: str) -> None:
    if not _NAME.fullmatch(name):
        section.fail(
            "name",
            f"{show(name)} must be lower-case letters, digits and _, start with a letter, at most 48 long",
        )
    if name in _TAKEN_NAMES or name.startswith("embeddings") or name.endswith("_history"):
        section.fail("name", f"{name} is the name of one of imagebeam's own tables or views: use another")


def _check_fields(section: Section, prompt: str) -> None:
    for field in FIELD.findall(prompt):
        if field not in PROMPT_FIELDS and not _EXTRA.fullmatch(field):
            section.fail(
                "prompt",
                f"unknown field {{{{{field}}}}}{suggestion(field, PROMPT_FIELDS)}; there are "
                f"{', '.join(PROMPT_FIELDS)}, and extra.NAME for a column kept with --keep_columns",
            )


def _read_generation(section: Section) -> Generation:
    section.allow([field.name for field in dataclasses.fields(Generation)])
    return Generation(
        temperature=section.number("temperature", 0, 2) if "temperature" in section else None,
        top_p=section.number("top_p", 0, 1) if "top_p" in section else None,
        seed=section.whole("seed", 0, 2**31 - 1) if "seed" in section else None,
        max_output_tokens=section.whole("max_output_tokens", 1, 65_536) if "max_output_tokens" in section else None,
        thinking=_read_thinking(section) if "thinking" in section else None,
    )


def _read_thinking(section: Section) -> str | int:
    value = section.content["thinking"]
    if isinstance(value, int) and not isinstance(value, bool):
        return section.whole("thinking", 0, 65_536)
    if value not in THINKING_WORDS:
        near = suggestion(str(value), THINKING_WORDS)
        section.fail(
            "thinking",
            f"{show(value)} is not one of {', '.join(THINKING_WORDS)}, nor a budget in tokens{near}",
        )
    return str(value)


def _read_image(section: Section) -> ImageSettings:
    section.allow([field.name for field in dataclasses.fields(ImageSettings)])
    crop = section.choice("crop", ("none", "bbox"), "none")
    max_side = section.whole("max_side", 64, 8192) if "max_side" in section else None
    # A setting without effect would make a new version of the task for nothing.
    if "padding" in section and crop == "none":
        section.fail("padding", "has no effect without `crop: bbox`: leave it out")
    if "quality" in section and crop == "none" and max_side is None:
        section.fail("quality", "has no effect on images that are sent as they are: leave it out")
    return ImageSettings(
        crop=cast("Any", crop),
        padding=section.number("padding", 0, 1, 0.0),
        max_side=max_side,
        quality=section.whole("quality", 1, 100, 90),
    )
