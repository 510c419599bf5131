"""Metadata of objects, and the records that store what a file cannot represent."""

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
_CHUNK_BYTES: Final = 1 << 20


def guess_type(name: str) -> str:
    """Return the content type for an object's name; ``application/octet-stream`` if unknown."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  (an object name is not a path)
    return _TYPES.get(suffix) or mimetypes.guess_type("x" + suffix)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The current state of an object.

    Attributes:
        bucket: Bucket name.
        name: Object name.
        path: The file with the content.
        size: Size in bytes.
        generation: Microseconds since 1970; increases with every write.
        metageneration: 1 for a new generation, incremented by every metadata update.
        updated_us: Last change of content or metadata in microseconds since 1970.
        fields: Writable metadata by field name of the JSON API (``contentType``, ``metadata``, ...).
        components: Number of components of a composed object, else 0. A composed object has no MD5.
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
        """The stored content type, or else the one for the name."""
        return str(self.fields.get("contentType") or guess_type(self.name))

    @property
    def data(self) -> bytes:
        """The content, read now: of a newer generation if the object has been replaced."""
        return self.path.read_bytes()


def compute_digests(data: bytes) -> tuple[str, str]:
    """Return MD5 and CRC32C of ``data`` in base64."""
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    crc = google_crc32c.Checksum(data).digest()
    return base64.b64encode(md5).decode(), base64.b64encode(crc).decode()


def compute_file_digests(path: Path) -> tuple[str, str]:
    """Return MD5 and CRC32C of a file in base64, without loading the file into memory."""
    md5, crc = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            md5.update(piece)
            crc.update(piece)
    return base64.b64encode(md5.digest()).decode(), base64.b64encode(crc.digest()).decode()


def metadata_record(
    name: str, generation: int, metageneration: int, updated_us: int, fields: dict[str, Any], components: int
) -> dict[str, Any]:
    """Return the record of an object: the attributes of `StoredObject` that its file does not represent."""
    return {
        "name": name,
        "generation": generation,
        "metageneration": metageneration,
        "updated_us": updated_us,
        "fields": fields,
        "components": components,
    }


def read_metadata(path: Path) -> dict[str, Any]:
    """Return a record; empty if it does not exist or cannot be read."""
    try:
        record: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
        return {}
    return record


def write_metadata(path: Path, record: dict[str, Any]) -> None:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(orjson.dumps(record))
    temporary.replace(path)
