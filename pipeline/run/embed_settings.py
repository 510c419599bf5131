"""The settings of ``imagebeam embed``, and the table of the commands that run a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol, Self

import pydantic

from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.embed import NO_DATAFLOW, EmbedBatchSettings, SqlSettings, VectorSettings
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Flags, Group
from imagebeam.pipeline.run.settings import ClassifySettings, changed, load_classify, merge_layers, resolve, with_beam
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.embedding_batch import check_batch
from imagebeam.transforms.tasks.embedding import EmbedTask, embed_task, resolve_dimension
from imagebeam.transforms.tasks.task import ImageSettings


class EmbedSettings(VectorSettings, EmbedBatchSettings, SqlSettings, ClassifySettings):
    """Settings of ``imagebeam embed``.

    Attributes:
        task: Name under which outcomes are recorded.
        max_images: Not used: a vector describes one image.
        price_as: Not used: the price of every embedding model is known.
        prompt: Not used: a vector has no prompt.
        answer_schema: Not used, for the same reason.
    """

    task: str = ""
    max_images: int | None = None
    price_as: str | None = None
    prompt: str | None = None
    answer_schema: Path | None = None

    @property
    def image(self) -> ImageSettings:
        """How an image is changed before it is sent."""
        return ImageSettings(crop=self.crop, padding=self.padding or 0.0, max_side=self.max_side)

    def embed_task(self) -> EmbedTask:
        """Return the task."""
        return embed_task(str(self.model), self.dimension, self.image)

    @pydantic.model_validator(mode="after")
    def _check_embed(self) -> Self:
        # A setting without effect would create a new version needlessly.
        if self.padding is not None and self.crop == "none":
            raise UserError("--padding has no effect without --crop=bbox: leave it out")
        if self.transport == Transport.URI and self.image.changes_images:
            raise UserError(
                "--crop and --max_side change the images, which must be sent as bytes: use --transport=inline or auto"
            )
        if self.lane == Lane.SQL and self.runner == "DataflowRunner":
            raise UserError(f"--lane=sql: {NO_DATAFLOW}")
        if self.lane != Lane.SQL and (wrong := changed(self, Group.SQL)):
            raise UserError(f"--{wrong[0]} is for --lane=sql; this run's lane is {self.lane}")
        self._check_existing("remote_model", "connection", "create_connection", "endpoint")
        self._check_existing("object_table", "object_uris", "max_staleness_minutes", "metadata_cache_mode")
        return self

    def _check_existing(self, existing: str, *defining: str) -> None:
        """Check that an existing resource is not also defined."""
        also = [name for name in changed(self, Group.SQL) if name in defining]
        if getattr(self, existing) and also:
            raise UserError(f"--{existing} already has its definition, so --{also[0]} has no effect: leave it out")

    def check_batch(self) -> None:
        """Check what ``--lane=batch`` needs.

        Raises:
            UserError: A value that batch jobs cannot have.
        """
        check_batch(self.embed_task())
        if self.transport == Transport.INLINE:
            raise UserError(
                "--lane=batch sends images by URI, and --transport=inline sends their bytes: use --lane=online"
            )
        for name in ("batch_source", "batch_destination"):
            if getattr(self, name) == "bigquery":
                raise UserError(f"--{name}=bigquery: embedding jobs read and write files only: leave --{name} at gcs")


#: Settings of ``imagebeam embed``.
EMBED: Final[Flags] = flags_of(EmbedSettings)


def load_embed(line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> tuple[EmbedSettings, list[str]]:
    """Return the settings of ``imagebeam embed``, and the options that Beam gets.

    Args:
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the default project.

    Raises:
        UserError: Unknown key, invalid value, contradiction, missing file.
    """
    found = merge_layers(line, EMBED, cwd=cwd)
    values = resolve(found, EMBED, cwd=cwd, environ=environ)
    dimension = resolve_dimension(found.get(EMBED["model"]), values.get("dimension"))
    settings = EmbedSettings(**{**values, "dimension": dimension})
    return with_beam(settings.replace(task=settings.embed_task().name), found, environ)


class Load(Protocol):
    """Type of :func:`load_classify` and :func:`load_embed`."""

    def __call__(
        self, line: FlagValues, *, cwd: Path, environ: Mapping[str, str]
    ) -> tuple[ClassifySettings, list[str]]:
        """Return the settings of a command line, and the options that Beam gets."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A command that runs a job.

    Attributes:
        name: ``classify`` or ``embed``.
        flags: Its settings.
        load: Reads and checks a command line.
    """

    name: str
    flags: Flags
    load: Load


JOBS: Final[Mapping[str, Job]] = {
    "classify": Job("classify", CLASSIFY, load_classify),
    "embed": Job("embed", EMBED, load_embed),
}
#: Settings of each job; the first is the default.
JOB_FLAGS: Final[Mapping[str, Flags]] = {name: job.flags for name, job in JOBS.items()}
#: Job of a command that names none.
DEFAULT_JOB: Final = "classify"
