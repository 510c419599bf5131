"""Output of a batch job to Cloud Storage: ``prediction-model-<time>/predictions.jsonl`` and its chunks."""

import base64
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from imagebeam.emulators.batch.data.rows import Record
from imagebeam.emulators.batch.requests import GcsFile
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_store import ObjectStore

#: ``incremental_predictions`` contain one of so many finished lines.
_EXPORTED: Final = 2


class Output(Protocol):
    """Destination of a job's output lines. Not thread-safe."""

    @property
    def info(self) -> dict[str, Any]:
        """``outputInfo`` of the job."""

    def write(self, lines: Sequence[Record]) -> None:
        """Write the next lines."""

    def finish(self) -> None:
        """Complete the output."""

    def discard(self) -> None:
        """Remove unfinished output. No effect after `finish`."""


class GcsOutput:
    """A directory of JSONL files. Each chunk of lines is shuffled separately.

    Args:
        objects: Cloud Storage.
        prefix: ``outputUriPrefix``.
        created: ``createTime`` of the job, part of the directory's name.
        shuffle: Seed of the order; None for the order of the input.
        truncated: Whether to cut the last line in the middle.
        incremental_only: Whether to export all lines in chunks, without ``predictions.jsonl``.

    Raises:
        ApiError: 404 if the bucket does not exist.
    """

    def __init__(
        self,
        objects: ObjectStore,
        prefix: GcsFile,
        created: str,
        *,
        shuffle: str | None,
        truncated: bool = False,
        incremental_only: bool = False,
    ) -> None:
        objects.bucket(prefix.bucket)
        self._objects = objects
        self._bucket = prefix.bucket
        self._directory = f"{prefix.name}/prediction-model-{created}".lstrip("/")
        self._random = None if shuffle is None else random.Random(shuffle)  # noqa: S311  (no secret)
        self._truncated = truncated
        self._incremental_only = incremental_only
        self._chunks = 0
        self._last = 0
        self._path: Path = objects.temporary()
        self._stream = self._path.open("wb")

    @property
    def info(self) -> dict[str, Any]:
        """``outputInfo`` of the job."""
        return {"gcsOutputDirectory": f"gs://{self._bucket}/{self._directory}"}

    def write(self, lines: Sequence[Record]) -> None:
        """Write the next lines, and export some of them at once."""
        if not lines:
            return
        texts = [orjson.dumps(line, default=encode_value, option=orjson.OPT_APPEND_NEWLINE) for line in lines]
        if self._random is not None:
            self._random.shuffle(texts)
        self._last = len(texts[-1])
        self._stream.writelines(texts)
        self._chunks += 1
        part = texts if self._incremental_only else texts[: -(-len(texts) // _EXPORTED)]
        name = f"{self._directory}/incremental_predictions/predictions_{self._chunks:04d}.jsonl"
        self._objects.write(self._bucket, name, b"".join(part))

    def finish(self) -> None:
        """Store ``predictions.jsonl``."""
        if self._truncated and self._last > 1:
            self._stream.truncate(self._stream.tell() - self._last // 2)
        self._stream.close()
        if not self._incremental_only:
            self._objects.store_file(self._bucket, f"{self._directory}/predictions.jsonl", self._path, {})

    def discard(self) -> None:
        """Remove the unfinished file."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._path.unlink(missing_ok=True)


def write_forbidden(bucket: str, number: str) -> ApiError:
    """Return the error for a service agent that lacks write access."""
    agent = f"service-{number}@gcp-sa-aiplatform.iam.gserviceaccount.com"
    return ApiError(
        403,
        f"{agent} does not have storage.objects.create access to the Google Cloud Storage object. Permission "
        f"'storage.objects.create' denied on resource '//storage.googleapis.com/projects/_/buckets/{bucket}' "
        "(or it may not exist).",
    )


def encode_value(value: Any) -> str:
    """Encode a value of a BigQuery column that JSON does not support."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
