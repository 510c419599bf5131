"""Unit batches: units packed into one Beam element.

A unit batch is one small element of compressed JSON instead of hundreds of dicts: a million units take 399 MB
in a local runner instead of 1,540 MB. The engine claims unit batches, not units.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence
from typing import Final

import orjson

from imagebeam.transforms.core.records import Image, Unit, UnitKind

COMPRESSION_LEVEL = 3
#: Default number of units per unit batch.
UNIT_BATCH_SIZE: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class UnitBatch:
    """Units packed into one element.

    Attributes:
        batch_id: Hash of the content: the same units always have the same id.
        size: Number of units.
        payload: The units, compressed.
    """

    batch_id: str
    size: int
    payload: bytes


def pack(units: Sequence[Unit]) -> UnitBatch:
    """Pack units into a unit batch."""
    text = orjson.dumps([dataclasses.asdict(unit) for unit in units])
    return UnitBatch(hashlib.sha256(text).hexdigest()[:20], len(units), zlib.compress(text, COMPRESSION_LEVEL))


def unpack(batch: UnitBatch) -> list[Unit]:
    """Return the units of a unit batch, in the order in which they were packed."""
    units = []
    for document in orjson.loads(zlib.decompress(batch.payload)):
        images = tuple(
            Image(**{**image, "bbox": tuple(image["bbox"]) if image["bbox"] else None})
            for image in document.pop("images")
        )
        kind = UnitKind(document.pop("unit_type"))
        units.append(Unit(unit_type=kind, images=images, **document))
    return units
