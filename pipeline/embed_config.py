"""The settings of ``imagebeam embed``: those of a run, and which vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from imagebeam.pipeline.config import ClassifySettings, check, field_values, require, with_beam
from imagebeam.pipeline.embed_flags import EMBED
from imagebeam.pipeline.said import read_flags
from imagebeam.transforms.embeddings import EmbedTask, checked_dimension, embed_task
from imagebeam.transforms.errors import UserError
from imagebeam.transforms.task import ImageSettings


@dataclasses.dataclass(frozen=True, slots=True)
class EmbedSettings(ClassifySettings):
    """What ``imagebeam embed`` was told; ``task`` is the name under which the outcomes stand.

    Attributes:
        dimension: Length of the vectors.
        image: What is done to an image before it is sent.
        vector_index: Make a vector index of the table after the run.
    """

    dimension: int = 0
    image: ImageSettings = ImageSettings()
    vector_index: bool = False

    def embed_task(self) -> EmbedTask:
        """The task that this is."""
        return embed_task(str(self.model), self.dimension, self.image)


def embed_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> tuple[EmbedSettings, list[str]]:
    """The settings of ``imagebeam embed``, and the options that Beam gets.

    Args:
        argv: Arguments after ``embed``.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the project when nothing else says one.

    Raises:
        UserError: Unknown flag or key, bad value, contradiction, missing file.
    """
    said = read_flags(argv, EMBED, command="imagebeam embed", cwd=cwd, environ=environ)
    values = said.values
    values["dimension"] = checked_dimension(values["model"], values["dimension"])
    image = _image(values)
    require(values)
    check(values, said.given)
    task = embed_task(values["model"], values["dimension"], image)
    plain = field_values(said, EmbedSettings, EMBED, cwd)
    return with_beam(EmbedSettings(**{**plain, "task": task.name, "image": image}), said, environ)


def _image(values: Mapping[str, Any]) -> ImageSettings:
    # A setting without effect would make another version for nothing.
    if values["padding"] is not None and values["crop"] == "none":
        raise UserError("--padding has no effect without --crop=bbox: leave it out")
    image = ImageSettings(
        crop=cast("Literal['none', 'bbox']", values["crop"]),
        padding=values["padding"] or 0.0,
        max_side=values["max_side"],
    )
    if values["transport"] == "uri" and image.changes_images:
        raise UserError(
            "--crop and --max_side change the images, so their bytes must travel: use --transport=inline or auto"
        )
    return image
