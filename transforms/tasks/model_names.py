"""Names of models: parse every form that Google's documentation uses, and normalize it, in one place."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Final

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import show

_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_VERSION: Final = rf"(?:@(?P<version>{_ID}))?"
_PLACE: Final = r"projects/(?P<project>[A-Za-z0-9.:-]+)/locations/(?P<location>[a-z0-9-]+)"
_PUBLISHER: Final = re.compile(rf"(?:(?:(?:{_PLACE}/)?publishers/)?google/(?:models/)?)?(?P<id>{_ID}){_VERSION}")
_TUNED_MODEL: Final = re.compile(rf"{_PLACE}/models/(?P<id>{_ID}){_VERSION}")
_ENDPOINT: Final = re.compile(rf"{_PLACE}/endpoints/(?P<id>{_ID})")
#: A version that means the same as none.
_DEFAULT: Final = "default"


class ModelKind(enum.StrEnum):
    """What a name refers to."""

    PUBLISHER = "model of Google"
    MODEL = "tuned model"
    ENDPOINT = "endpoint"


@dataclasses.dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed name of a model.

    Attributes:
        name: Normalized name: an id such as ``gemini-2.5-flash``, or the resource name of a tuned model or endpoint.
            It is recorded, and part of the version of a task.
        kind: What it refers to.
        base: ``name`` without its version.
        location: Location in the text; None if it has none.
        project: Project in the text; None if it has none.
    """

    name: str
    kind: ModelKind
    base: str
    location: str | None = None
    project: str | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether it is a tuned model or its endpoint."""
        return self.kind is not ModelKind.PUBLISHER


def parse_model_name(text: str) -> ModelName:
    """Parse the name of a model.

    >>> parse_model_name("publishers/google/models/gemini-2.5-flash@default").name
    'gemini-2.5-flash'
    >>> parse_model_name("google/gemini-2.0-flash-001").name
    'gemini-2.0-flash-001'
    >>> parse_model_name("projects/p/locations/us-central1/models/815@2").location
    'us-central1'

    Args:
        text: An id, ``google/ID``, ``publishers/google/models/ID`` with or without ``projects/P/locations/L/`` before
            it, or the resource name of a tuned model or endpoint. Models may have a version: ``ID@VERSION``.

    Raises:
        UserError: The text has none of these forms.
    """
    text = text.strip()
    if found := _ENDPOINT.fullmatch(text):
        return ModelName(text, ModelKind.ENDPOINT, text, found["location"], found["project"])
    if found := _TUNED_MODEL.fullmatch(text):
        return ModelName(text, ModelKind.MODEL, text.partition("@")[0], found["location"], found["project"])
    if found := _PUBLISHER.fullmatch(text):
        version = "" if found["version"] in (None, _DEFAULT) else f"@{found['version']}"
        return ModelName(found["id"] + version, ModelKind.PUBLISHER, found["id"], found["location"], found["project"])
    raise UserError(
        f"{show(text)} is not the name of a model: use an id such as gemini-3.5-flash-lite, "
        "publishers/google/models/ID, or for a tuned model projects/P/locations/L/models/ID or …/endpoints/ID"
    )
