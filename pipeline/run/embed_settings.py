"""The settings of ``imagebeam embed``: those of a run, and which vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from imagebeam.pipeline.flags.embed import EMBED, EMBED_SQL, NO_DATAFLOW
from imagebeam.pipeline.flags.layers import read_flags
from imagebeam.pipeline.run.settings import ClassifySettings, check, field_values, require, with_beam
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.embedding_batch import check_batch
from imagebeam.transforms.tasks.embedding import EmbedTask, embed_task, resolve_dimension
from imagebeam.transforms.tasks.task import ImageSettings


@dataclasses.dataclass(frozen=True, slots=True)
class EmbedSettings(ClassifySettings):
    """What ``imagebeam embed`` was told; ``task`` is the name under which the outcomes stand.

    Attributes:
        dimension: Length of the vectors.
        image: What is done to an image before it is sent.
        vector_index: Make a vector index of the table after the run.
        connection: ``DEFAULT``, ``location.name`` or ``project.location.name``.
        create_connection: Make the connection if it is not there.
        endpoint: Name or URL of the model for BigQuery; None for the model's name.
        object_uris: Prefixes of an object table; empty to read images straight from their URIs.
        max_staleness_minutes: How old the object table's listing may be.
        metadata_cache_mode: ``AUTOMATIC`` or ``MANUAL``.
        rows_per_job: Images per job at most.
        max_passes: Passes at most.
        pass_pause_s: Seconds before the second pass.
        dry_run: Show the statements, do nothing.
    """

    dimension: int = 0
    image: ImageSettings = ImageSettings()
    vector_index: bool = False
    connection: str = "DEFAULT"
    create_connection: bool = False
    endpoint: str | None = None
    object_uris: tuple[str, ...] = ()
    max_staleness_minutes: int = 0
    metadata_cache_mode: str = "AUTOMATIC"
    rows_per_job: int = 40_000
    max_passes: int = 20
    pass_pause_s: float = 10.0
    dry_run: bool = False

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
    values["dimension"] = resolve_dimension(values["model"], values["dimension"])
    image = _image(values)
    require(values)
    task = embed_task(values["model"], values["dimension"], image)
    check(values, said.given, lambda values: _check_batch(values, task))
    if values["lane"] == Lane.SQL and values["runner"] == "DataflowRunner":
        raise UserError(f"--lane=sql: {NO_DATAFLOW}")
    if values["lane"] != Lane.SQL and (wrong := [flag.name for flag in EMBED_SQL if flag.name in said.given]):
        raise UserError(f"--{wrong[0]} is for --lane=sql; this run's lane is {values['lane']}")
    plain = field_values(said, EmbedSettings, EMBED, cwd)
    return with_beam(EmbedSettings(**{**plain, "task": task.name, "image": image}), said, environ)


def _check_batch(values: Mapping[str, Any], task: EmbedTask) -> None:
    check_batch(task)
    if values["transport"] == Transport.INLINE:
        raise UserError("--lane=batch sends images by URI, and --transport=inline sends their bytes: use --lane=online")
    for name in ("batch_source", "batch_destination"):
        if values[name] == "bigquery":
            raise UserError(f"--{name}=bigquery: embedding jobs read and write files only: leave --{name} at gcs")


def _image(values: Mapping[str, Any]) -> ImageSettings:
    # A setting without effect would make another version for nothing.
    if values["padding"] is not None and values["crop"] == "none":
        raise UserError("--padding has no effect without --crop=bbox: leave it out")
    image = ImageSettings(
        crop=cast("Literal['none', 'bbox']", values["crop"]),
        padding=values["padding"] or 0.0,
        max_side=values["max_side"],
    )
    if values["transport"] == Transport.URI and image.changes_images:
        raise UserError(
            "--crop and --max_side change the images, so their bytes must travel: use --transport=inline or auto"
        )
    return image
