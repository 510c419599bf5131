"""The input of a batch job: the online lane's requests as JSONL, one keyed line per unit.

A :class:`LineTemplate` renders the shared text of a task's lines once; each line is then assembled from it and the text
of the unit. The service imports the lines of a job into one table, so the shared structure is linted before anything is
written.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.images import SUPPORTED, ImageError, checked_uri, mime_from_name
from imagebeam.transforms.core.records import ImageReason, Unit
from imagebeam.transforms.gemini.requests import ImagePart, image_label, image_part, render_prompt, request_frame
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

MAX_LINES = 200_000
"""Maximum requests per job (Google, "Batch inference")."""

MAX_BYTES = 1_000_000_000 - 16_000_000
"""Maximum bytes of an input file: 1 GB (Google, "Batch inference"), minus a margin."""

DISPLAY_NAME = "imagebeam"
"""Default start of the display names of jobs."""

_OPEN, _REQUEST, _CLOSE = b'{"custom_id":"', b'","request":', b"}\n"
_CONTENTS = b'{"contents":[{"role":"user","parts":['
# Placeholder for a URI while the text around it is rendered: no URI and no MIME type contains it.
HOLE = "\0"
# Keywords that the import cannot represent, and what to do instead.
_KEYWORDS: Mapping[str, str] = {
    **dict.fromkeys(("$ref", "$defs", "$schema", "$id", "definitions"), "inline the referenced schema"),
    **dict.fromkeys(("responseJsonSchema", "response_json_schema"), "use responseSchema"),
    **dict.fromkeys(("inlineData", "inline_data"), "a batch job reads images by URI"),
    "type_": "use type",
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), "use one type with nullable, or an enum"),
}
# The keys below these are user-chosen names, not keywords.
_NAMES = frozenset({"properties", "labels"})


@dataclasses.dataclass(frozen=True, slots=True)
class ShardLimits:
    """Limits of one input file, which is one job.

    Attributes:
        lines: Lines, 1 to 200,000.
        size: Bytes, 1 to 984,000,000.
    """

    lines: int = MAX_LINES
    size: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Validate the limits."""
        if not 1 <= self.lines <= MAX_LINES:
            raise UserError(f"a batch job can have 1 to {MAX_LINES:,} lines, not {self.lines:,}")
        if not 1 <= self.size <= MAX_BYTES:
            raise UserError(f"the file of a batch job can have 1 to {MAX_BYTES:,} bytes, not {self.size:,}")

    def is_full(self, lines: int, size: int, line_size: int) -> bool:
        """Return True if one more line does not fit into a file.

        Args:
            lines: Lines in the file.
            size: Bytes in the file.
            line_size: Bytes of the next line, line feed included.

        Raises:
            UserError: The line does not fit into an empty file either.
        """
        if line_size > self.size:
            raise UserError(
                f"a request has {line_size:,} bytes; the maximum of an input file is {self.size:,}; shorten the prompt"
            )
        return lines >= self.lines or size + line_size > self.size


@dataclasses.dataclass(frozen=True, slots=True)
class LineTemplate:
    """Renderer of the lines of one task; create it with :func:`line_template`. Picklable.

    Attributes:
        prompt: The task's prompt.
        text: The text part of every request; None if the prompt has fields, so that each unit has its own.
        heads: Text of an image part before its URI, by MIME type.
        tail: Text of an image part after its URI.
        end: Text of a request after its parts.
        single_heads: Text of a line with one image between its key and the URI, by MIME type.
        single_end: Text of such a line after the URI; None if ``text`` is None.
        resolution: The task's media resolution.
    """

    prompt: str
    text: bytes | None
    heads: Mapping[str, bytes]
    tail: bytes
    end: bytes
    single_heads: Mapping[str, bytes]
    single_end: bytes | None
    resolution: str

    def line(self, key: str, unit: Unit, mime_types: Sequence[str]) -> bytes:
        """Return one line of the input file.

        Args:
            key: The unit's key, see :func:`key_of`.
            unit: The unit; all its images have URIs, see :func:`~images.checked_uri`.
            mime_types: Types of its images, one per image.

        Returns:
            ``{"custom_id": …, "request": …}`` and a line feed, UTF-8. The request is that of
            :func:`~requests.build_request` for the same unit, its images by URI.

        Raises:
            ValueError: The unit has no image, the number of MIME types is wrong, or an image has no URI.
        """
        images = unit.images
        if self.single_end and len(images) == 1 == len(mime_types) and mime_types[0] in self.single_heads:
            # The common case, four times as fast: only the key and the URI are missing.
            uri = quoted(_uri(unit, 0))
            return b"".join((_OPEN, key.encode(), self.single_heads[mime_types[0]], uri, self.single_end))
        if not images:
            raise ValueError(f"unit {unit.unit_id} has no image")
        if len(images) != len(mime_types):
            raise ValueError(f"{len(mime_types)} MIME types for {len(images)} images of unit {unit.unit_id}")
        text = self.text or _text_part(render_prompt(self.prompt, unit))
        pieces = [_OPEN, key.encode(), _REQUEST, _CONTENTS]
        for index, (image, mime_type) in enumerate(zip(images, mime_types, strict=True)):
            if len(images) > 1:
                pieces += (_text_part(image_label(image, index + 1, len(images))), b",")
            head = (
                self.heads.get(mime_type)
                or split_at_uri(image_part(ImagePart(mime_type, uri=HOLE), self.resolution))[0]
            )
            pieces += (head, quoted(_uri(unit, index)), self.tail, b",")
        pieces += (text, self.end, _CLOSE)
        return b"".join(pieces)


def line_template(task: Task, profile: ModelProfile, labels: Mapping[str, str]) -> LineTemplate:
    """Render the shared text of a task's lines, and lint it.

    Args:
        task: The task.
        profile: The task's model.
        labels: Billing labels, the same for every request of a run.

    Raises:
        UserError: The batch lane does not support the task.
    """
    if task.image.changes_images:
        raise UserError(
            f"task {task.name}: image.crop and image.max_side need the image inside the request, and a batch job "
            "reads images by URI: use --lane=flex, which costs the same"
        )
    frame = request_frame(task, profile, labels)
    # The rest of a request, its contents, has one structure that the import is known to accept.
    if frame and (problems := list(lint(frame))):
        raise UserError(f"batch jobs do not support task {task.name}: {'; '.join(problems)}; or use --lane=flex")
    edges = {
        mime: split_at_uri(image_part(ImagePart(mime, uri=HOLE), task.media_resolution)) for mime in sorted(SUPPORTED)
    }
    heads = {mime: head for mime, (head, _) in edges.items()}
    tail = next(iter(edges.values()))[1]
    text = None if task.prompt_fields() else _text_part(task.prompt)
    end = b"]}]" + (b"," + orjson.dumps(frame)[1:] if frame else b"}")
    return LineTemplate(
        prompt=task.prompt,
        text=text,
        heads=heads,
        tail=tail,
        end=end,
        single_heads={mime: _REQUEST + _CONTENTS + head for mime, head in heads.items()},
        single_end=b"".join((tail, b",", text, end, _CLOSE)) if text else None,
        resolution=task.media_resolution,
    )


def key_of(unit_id: str, input_digest: str, version: str) -> str:
    """Return the key that identifies the line of a unit in any file.

    It depends on the unit, its input and the task's version only: output of another task never matches, and late output
    of an earlier round does.

    Args:
        unit_id: Id of the unit.
        input_digest: Digest of its input.
        version: Version of the task.

    Returns:
        ``k-`` and 32 hex digits; it starts with a letter, so that no import reads it as a number or a date.

    >>> key_of("o1:a", "d" * 64, "0123456789ab")
    'k-93bf82b1db6db85a0b09074e5062186e'
    """
    # Version and digest are hex, so the parts cannot be confused, whatever an id contains.
    text = f"{version}\0{input_digest}\0{unit_id}"
    return "k-" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def named_types(unit: Unit) -> tuple[str | None, ...]:
    """Return the MIME types of a unit's images by their names, as in the online lane.

    Args:
        unit: The unit.

    Returns:
        A MIME type per image; None where the name does not show it.

    Raises:
        ImageError: The unit has no image, or one without a ``gs://`` URI.
    """
    if not unit.images:
        raise ImageError(ImageReason.NO_URI, "the unit has no image")
    return tuple(mime_from_name(checked_uri(image.uri)) for image in unit.images)


def lint(value: Any, path: str = "", *, chosen: bool = False) -> Iterator[str]:
    """Yield the problems that the import of a batch job would have with a request, one line each.

    Args:
        value: A request, or a part of one.
        path: Its path in the request, with which every line starts.
        chosen: Whether the keys of the value are user-chosen names, not keywords.
    """
    here = path or "the request"
    if isinstance(value, Mapping):
        if not value:
            yield f"{here}: an empty object"
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{here}: {key!r} is not a string key"
                continue
            inner = f"{path}.{key}" if path else key
            if key in _KEYWORDS and not chosen:
                yield f"{inner}: {_KEYWORDS[key]}"
            elif key in ("type", "additionalProperties") and isinstance(item, list) and not chosen:
                yield f"{inner}: a list of types: use one type and nullable"
            yield from lint(item, inner, chosen=key in _NAMES and not chosen)
    elif isinstance(value, list | tuple):
        if not value:
            yield f"{here}: an empty list"
        # The parts of a content are images and texts: the only documented mixture.
        elif not f".{path}".endswith(".parts") and len({_shape(item) for item in value if item is not None}) > 1:
            yield f"{here}: items of different structure"
        for number, item in enumerate(value):
            yield from lint(item, f"{path}[{number}]")
    elif value is None:
        yield f"{here}: null"
    elif isinstance(value, float) and value - value != 0:
        yield f"{here}: {value} is not a JSON number"
    elif not isinstance(value, str | int | float):
        yield f"{here}: {type(value).__name__} is not a JSON value"


def _shape(value: Any) -> Any:
    """Return the structure of a value as a table column sees it."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _shape(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (list, *dict.fromkeys(_shape(item) for item in value))
    return type(value)


def split_at_uri(document: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the JSON of a document with :data:`HOLE` before and after the placeholder."""
    head, tail = orjson.dumps(document).split(orjson.dumps(HOLE))
    return head, tail


def _uri(unit: Unit, index: int) -> str:
    uri = unit.images[index].uri
    if uri is None:
        raise ValueError(f"image {index + 1} of unit {unit.unit_id} has no URI")
    return uri


def _text_part(text: str) -> bytes:
    return b'{"text":%b}' % quoted(text)


def quoted(text: str) -> bytes:
    """Return a text as JSON; a lone surrogate, which is not valid UTF-8, becomes U+FFFD."""
    try:
        return orjson.dumps(text)
    except TypeError:
        return orjson.dumps(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
