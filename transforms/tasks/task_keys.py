"""The keys of a task file: what they mean, and which values they take.

The reference of task files is generated from these declarations, and :mod:`task` reads files with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

from imagebeam.transforms.core.records import UnitKind
from imagebeam.transforms.core.strict_yaml import Section, show, suggestion

THINKING_WORDS: Final = ("minimal", "low", "medium", "high")
MEDIA_RESOLUTIONS: Final = ("default", "low", "medium", "high", "ultra_high")


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A key of a task file.

    Attributes:
        name: The key.
        kind: Type of its value; ``keys`` is a nested mapping.
        meaning: What it means, for the reference.
        default: Value of an absent key.
        required: Whether the key must be present.
        low: Smallest number.
        high: Largest number.
        choices: Allowed words.
    """

    name: str
    kind: Literal["text", "integer", "number", "word", "word or integer", "keys"]
    meaning: str
    default: Any = None
    required: bool = False
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    def read(self, section: Section) -> Any:
        """Return the value of the key, or its default.

        Raises:
            UserError: The value is missing, of another type, or out of range.
        """
        if self.name not in section and not self.required:
            return self.default
        value = section.content.get(self.name)
        if self.kind == "text":
            return section.text(self.name)
        if self.kind == "number":
            return section.number(self.name, self.low, self.high)
        if self.kind == "word or integer" and (isinstance(value, bool) or not isinstance(value, int)):
            return self._read_word(section, value)
        if self.kind == "word":
            return section.choice(self.name, self.choices)
        return section.whole(self.name, int(self.low), int(self.high))

    def _read_word(self, section: Section, value: Any) -> str:
        if value not in self.choices:
            near = suggestion(str(value), self.choices)
            section.fail(
                self.name, f"{show(value)} is neither one of {', '.join(self.choices)} nor a budget in tokens{near}"
            )
        return str(value)


def _by_name(*keys: Key) -> Mapping[str, Key]:
    return {key.name: key for key in keys}


TASK: Final = _by_name(
    Key(
        "name",
        "text",
        "Name of the task and of its view: at most 48 lowercase letters, digits and _, starting with a letter.",
        required=True,
    ),
    Key("description", "text", "Description shown by `imagebeam tasks`. Not part of the version.", default=""),
    Key("model", "text", "Model id, or the resource name of a tuned model or endpoint. Default: the default model."),
    Key("prompt", "text", "Prompt; may contain fields.", required=True),
    Key("system", "text", "System instruction, the same for every unit."),
    Key(
        "unit",
        "word",
        "What one call covers: an observation, or an asset with its newest images.",
        default=UnitKind.OBSERVATION,
        choices=tuple(UnitKind),
    ),
    Key("max_images", "integer", "Maximum number of images of an asset; requires `unit: asset`.", 10, low=1, high=10),
    Key("schema", "keys", "Answer schema. Without it the answer is free text, in the column `text`."),
    Key("generation", "keys", "Generation settings."),
    Key(
        "media_resolution",
        "word",
        "Resolution at which the model reads images. It determines their tokens, and most of the cost.",
        default="default",
        choices=MEDIA_RESOLUTIONS,
    ),
    Key("image", "keys", "Image preprocessing. Any value but the default sends the bytes of the images."),
)
GENERATION: Final = _by_name(
    Key("temperature", "number", "Sampling temperature. Newer models ignore it.", low=0, high=2),
    Key("top_p", "number", "Nucleus sampling. Newer models ignore it.", low=0, high=1),
    Key("seed", "integer", "Seed, best effort.", low=0, high=2**31 - 1),
    Key("max_output_tokens", "integer", "Maximum number of output tokens, thoughts included.", low=1, high=65_536),
    Key(
        "thinking",
        "word or integer",
        "Thinking level, or a budget in tokens for models that accept one.",
        low=0,
        high=65_536,
        choices=THINKING_WORDS,
    ),
)
IMAGE: Final = _by_name(
    Key(
        "crop",
        "word",
        "`bbox` crops the image to the bounding box of the observation.",
        default="none",
        choices=("none", "bbox"),
    ),
    Key("padding", "number", "Margin around the box, as a fraction of its longer side.", 0.0, low=0, high=1),
    Key("max_side", "integer", "Maximum length of the longer side in pixels.", low=64, high=8192),
    Key("quality", "integer", "JPEG quality of changed images.", 90, low=1, high=100),
)
