"""What is known of an object beside its bytes, and the notes that keep what a file cannot say."""

import base64
import hashlib
import mimetypes
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import google_crc32c
import orjson

_TYPES: Final = {".jsonl": "application/json", ".ndjson": "application/json", ".webp": "image/webp"}
_PIECE_BYTES: Final = 1 << 20


def guess_type(name: str) -> str:
    """Return the content type that an object's name suggests; ``application/octet-stream`` otherwise."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  (an object name is no path)
    return _TYPES.get(suffix) or mimetypes.guess_type("x" + suffix)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as it is now.

    Attributes:
        bucket: Bucket name.
        name: Object name.
        path: The file with the bytes.
        size: Bytes.
        generation: Microseconds since 1970; grows with every write of the object.
        metageneration: 1 for a new generation, plus 1 for every metadata update.
        updated_us: Last change of bytes or metadata, microseconds since 1970.
        fields: Writable metadata in the names of the JSON API (``contentType``, ``metadata`` ...).
        components: Number of parts for a composed object, else 0 (a composed object has no MD5).
    """

    bucket: str
    name: str
    path: Path
    size: int
    generation: int
    metageneration: int
    updated_us: int
    fields: dict[str, Any] = field(default_factory=dict)
    components: int = 0

    @property
    def uri(self) -> str:
        """``gs://bucket/name``."""
        return f"gs://{self.bucket}/{self.name}"

    @property
    def content_type(self) -> str:
        """The stored content type, else what the name suggests."""
        return str(self.fields.get("contentType") or guess_type(self.name))

    @property
    def data(self) -> bytes:
        """All bytes, read now (so of a newer generation, when the object was replaced meanwhile)."""
        return self.path.read_bytes()


def digest(data: bytes) -> tuple[str, str]:
    """Return MD5 and CRC32C of ``data`` in base64."""
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    crc = google_crc32c.Checksum(data).digest()
    return base64.b64encode(md5).decode(), base64.b64encode(crc).decode()


def digest_of(path: Path) -> tuple[str, str]:
    """Return MD5 and CRC32C of a file in base64, without holding it."""
    md5, crc = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            md5.update(piece)
            crc.update(piece)
    return base64.b64encode(md5.digest()).decode(), base64.b64encode(crc.digest()).decode()


def note_of(
    name: str, generation: int, metageneration: int, updated_us: int, fields: dict[str, Any], components: int
) -> dict[str, Any]:
    """Return the note of an object: the attributes of `StoredObject` that its file does not tell."""
    return {
        "name": name,
        "generation": generation,
        "metageneration": metageneration,
        "updated_us": updated_us,
        "fields": fields,
        "components": components,
    }


def read_note(path: Path) -> dict[str, Any]:
    """Return a note; empty when there is none, or none that can be read."""
    try:
        note: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
        return {}
    return note


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Replace a note at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(orjson.dumps(note))
    temporary.replace(path)
