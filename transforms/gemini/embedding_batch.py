"""The input of an embedding job: the online lane's requests as JSONL, one keyed line per image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.images import SUPPORTED
from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.gemini.batch_requests import HOLE, quoted, split_at_uri
from imagebeam.transforms.gemini.embeddings import build_embedding_row
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.tasks.embedding import EmbedTask, find_embedding_model

_OPEN, _CLOSE = b'{"key":"', b"}\n"


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingLines:
    """Renderer of the lines of one task; create it with :func:`embedding_lines`. Picklable.

    Attributes:
        heads: Text of a line between its key and the URI, by MIME type.
        end: Text of a line after the URI.
    """

    heads: Mapping[str, bytes]
    end: bytes

    def line(self, key: str, unit: Unit, mime_types: Sequence[str]) -> bytes:
        """Return one line of the input file.

        Args:
            key: The unit's key, see :func:`~batch_requests.key_of`.
            unit: A unit of one image with a URI, see :func:`~images.checked_uri`.
            mime_types: Type of the image, one of :data:`~images.SUPPORTED`.

        Returns:
            ``{"key": …, "request": …}`` and a line feed, UTF-8; see :func:`~embeddings.build_embedding_row`.

        Raises:
            ValueError: The unit does not have exactly one image with a URI and a type.
        """
        if len(unit.images) != 1 or len(mime_types) != 1:
            raise ValueError(f"an embedding needs exactly one image, not {len(unit.images)}: unit {unit.unit_id}")
        uri, head = unit.images[0].uri, self.heads.get(mime_types[0])
        if uri is None or head is None:
            raise ValueError(f"unit {unit.unit_id}: cannot send {uri} of type {mime_types[0]}")
        return b"".join((_OPEN, key.encode(), head, quoted(uri), self.end))


def embedding_lines(task: EmbedTask) -> EmbeddingLines:
    """Render the shared text of a task's lines.

    Raises:
        UserError: The batch lane does not support the task.
    """
    check_batch(task)
    edges = {mime: split_at_uri(build_embedding_row(task, ImagePart(mime, uri=HOLE))) for mime in sorted(SUPPORTED)}
    heads = {mime: b'","request":' + head for mime, (head, _) in edges.items()}
    return EmbeddingLines(heads, next(iter(edges.values()))[1] + _CLOSE)


def check_batch(task: EmbedTask) -> None:
    """Check that the batch lane supports a task.

    Raises:
        UserError: It does not.
    """
    if find_embedding_model(task.model).method != "embedContent":
        raise UserError(
            f"--lane=batch: {task.model} does not support batch jobs: use --lane=online or --lane=sql, or "
            "--model=gemini-embedding-2, whose vectors cannot be compared with those of this model"
        )
    if task.image.changes_images:
        raise UserError(
            "--crop and --max_side need the image inside the request, and a batch job reads images by URI: use "
            "--lane=online"
        )
