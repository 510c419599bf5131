"""Embedding models, their dimensions, and the tasks under which their outcomes are recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.tasks.task import ImageSettings, Task

# Part of every version: increase it when gemini/embeddings.py builds a different request for the same image.
EMBED_FORMAT = 1
TASK_PREFIX = "embed/"


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model (Google, "Get multimodal embeddings" and "Gemini Embedding 2", November 2026).

    Attributes:
        name: Model id.
        method: API method: ``embedContent`` or ``predict``.
        dimensions: Supported vector lengths; empty for every length from 1 to ``default``.
        default: Default length, also the maximum.
    """

    name: str
    method: Literal["embedContent", "predict"]
    dimensions: tuple[int, ...]
    default: int

    def supports(self, dimension: int) -> bool:
        """Return True if the model can produce vectors of this length."""
        return dimension in self.dimensions if self.dimensions else 1 <= dimension <= self.default

    def format_dimensions(self) -> str:
        """Return the supported lengths for messages.

        >>> MODELS["multimodalembedding@001"].format_dimensions(), MODELS["gemini-embedding-2"].format_dimensions()
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


def find_embedding_model(name: str) -> EmbeddingModel:
    """Return the embedding model of a name.

    Raises:
        UserError: The name is not a known embedding model.
    """
    if name not in MODELS:
        raise UserError(f"--model={name} is not an embedding model: use one of {', '.join(MODELS)}")
    return MODELS[name]


def resolve_dimension(model: str, dimension: int | None) -> int:
    """Return the length of the vectors: the given one, or the model's default.

    Raises:
        UserError: The model is unknown or does not support this length.
    """
    known = find_embedding_model(model)
    if dimension is None:
        return known.default
    if not known.supports(dimension):
        raise UserError(f"--dimension={dimension}: {model} supports {known.format_dimensions()} dimensions")
    return dimension


@dataclasses.dataclass(frozen=True, slots=True)
class EmbedTask(Task):
    """The task of embedding images; created by :func:`embed_task`. It has no prompt, and its answer is a vector.

    Attributes:
        dimension: Length of the vectors.
    """

    dimension: int = 0
    lanes: ClassVar[tuple[Lane, ...]] = (Lane.ONLINE, Lane.BATCH, Lane.SQL)
    counts_tokens: ClassVar[bool] = False

    @property
    def method(self) -> str:
        """REST method of the task's calls."""
        return find_embedding_model(self.model).method

    @property
    def vector_dimension(self) -> int:
        """Length of the vector that a call returns."""
        return self.dimension

    def definition(self) -> dict[str, Any]:
        """Return everything that can change a vector, as JSON values; :attr:`version` is its hash."""
        return {
            "embed_format": EMBED_FORMAT,
            "model": self.model,
            "dimension": self.dimension,
            "image": dataclasses.asdict(self.image),
        }

    def columns(self) -> tuple[()]:
        """Return no columns, because vectors are stored in separate tables."""
        return ()


def embed_task(model: str, dimension: int, image: ImageSettings = ImageSettings()) -> EmbedTask:  # noqa: B008 - frozen
    """Build the task of embedding images.

    >>> embed_task("multimodalembedding@001", 512).name
    'embed/multimodalembedding@001/512'

    Args:
        model: One of :data:`MODELS`.
        dimension: Length of the vectors.
        image: Image preprocessing.

    Raises:
        UserError: The model is unknown or does not support this length.
    """
    return EmbedTask(
        name=f"{TASK_PREFIX}{model}/{resolve_dimension(model, dimension)}",
        description=f"Vectors of {model} with {dimension} dimensions.",
        model=model,
        prompt="",
        image=image,
        dimension=dimension,
    )
