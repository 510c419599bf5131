"""Embedding tasks: models, dimensions, and the task that the outcomes are recorded under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.tasks.task import ImageSettings, Task

# Part of every version: it rises when the same image would be sent differently (embedding_calls.py).
EMBED_FORMAT = 1


TASK_PREFIX = "embed/"


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model (Google, "Get multimodal embeddings" and "Gemini Embedding 2", November 2026).

    Attributes:
        name: Model id.
        method: How it is called: ``embedContent`` or ``predict``.
        dimensions: The lengths of its vectors; empty for any from 1 to ``default``.
        default: Length when nobody asks for one; the longest.
    """

    name: str
    method: Literal["embedContent", "predict"]
    dimensions: tuple[int, ...]
    default: int

    def takes(self, dimension: int) -> bool:
        """True if it makes vectors of this length."""
        return dimension in self.dimensions if self.dimensions else 1 <= dimension <= self.default

    def choices(self) -> str:
        """The lengths, for messages.

        >>> MODELS["multimodalembedding@001"].choices(), MODELS["gemini-embedding-2"].choices()
        ('128, 256, 512 or 1408', '1 to 3072')
        """
        if not self.dimensions:
            return f"1 to {self.default}"
        return f"{', '.join(map(str, self.dimensions[:-1]))} or {self.dimensions[-1]}"


DEFAULT_MODEL = "gemini-embedding-2"


MODELS: Mapping[str, EmbeddingModel] = {
    model.name: model
    for model in (
        EmbeddingModel("gemini-embedding-2", "embedContent", (), 3072),
        EmbeddingModel("multimodalembedding@001", "predict", (128, 256, 512, 1408), 1408),
    )
}


def embedding_model(name: str) -> EmbeddingModel:
    """The model of a name.

    Raises:
        UserError: It is no embedding model that imagebeam knows.
    """
    if name not in MODELS:
        raise UserError(f"--model={name} is no embedding model: use one of {', '.join(MODELS)}")
    return MODELS[name]


def checked_dimension(model: str, dimension: int | None) -> int:
    """The length of the vectors: the one asked for, or the model's default.

    Raises:
        UserError: The model is unknown, or makes no vectors of this length.
    """
    known = embedding_model(model)
    if dimension is None:
        return known.default
    if not known.takes(dimension):
        raise UserError(f"--dimension={dimension}: vectors of {model} have {known.choices()} dimensions")
    return dimension


def embed_task_name(model: str, dimension: int) -> str:
    """The task under which the outcomes of embedding stand.

    >>> embed_task_name("multimodalembedding@001", 512)
    'embed/multimodalembedding@001/512'
    """
    return f"{TASK_PREFIX}{model}/{dimension}"


@dataclasses.dataclass(frozen=True, slots=True)
class EmbedTask(Task):
    """The task of embedding images; made by :func:`embed_task`. It has no prompt, and its answer is a vector.

    Attributes:
        dimension: Length of the vectors.
    """

    dimension: int = 0

    def definition(self) -> dict[str, Any]:
        """Everything that can change a vector, as JSON values; :attr:`version` is its hash."""
        return {
            "embed_format": EMBED_FORMAT,
            "model": self.model,
            "dimension": self.dimension,
            "image": dataclasses.asdict(self.image),
        }

    def columns(self) -> tuple[()]:
        """None: vectors have tables of their own."""
        return ()


def embed_task(model: str, dimension: int, image: ImageSettings = ImageSettings()) -> EmbedTask:  # noqa: B008 - frozen
    """The task of embedding every image.

    Args:
        model: One of :data:`MODELS`.
        dimension: Length of the vectors.
        image: What is done to an image before it is sent.

    Raises:
        UserError: The model is unknown, or makes no vectors of this length.
    """
    return EmbedTask(
        name=embed_task_name(model, checked_dimension(model, dimension)),
        description=f"Vectors of {model} with {dimension} dimensions.",
        model=model,
        prompt="",
        image=image,
        dimension=dimension,
    )


def embed_version(model: str, dimension: int, image: ImageSettings = ImageSettings()) -> str:  # noqa: B008 - frozen
    """The version of that task: 12 hex digits over everything that can change a vector, in every lane."""
    return embed_task(model, dimension, image).version
