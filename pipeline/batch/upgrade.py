"""Read the JSON of a batch run that an older version wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.core.errors import UserError

#: Format of the run file that this version writes. Files without a number have format 1.
FORMAT = 2

#: Keys of format 1 that were renamed, in order: the path of the object that holds the key, the old key, the new key.
RENAMED = (
    ("run.engine", "asking", "call_settings"),
    ("run.engine.caps", "worst_usd", "max_call_usd"),
    ("run", "group_size", "unit_batch_size"),
    ("run", "due", "selection"),
    ("", "planned", "source"),
    ("source", "due", "remaining"),
    ("source", "due_new", "remaining_new"),
    ("source", "due_retry", "remaining_retry"),
    ("source", "due_outdated", "remaining_outdated"),
    ("source", "due_failed", "remaining_failed"),
    ("source", "not_due", "left_out"),
    ("source", "asked", "callable_units"),
    ("source", "most_images", "max_images_per_unit"),
)


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of an older format in place, so that this version can validate the document.

    Args:
        document: A run file or one of its parts. Paths that it does not have are ignored.

    Raises:
        UserError: A newer version wrote it.
    """
    if document.pop("format", 1) > FORMAT:
        raise UserError("a newer version of imagebeam wrote this run; upgrade imagebeam to continue it")
    for path, old, new in RENAMED:
        holder: Any = document
        for name in filter(None, path.split(".")):
            holder = holder.get(name) if isinstance(holder, Mapping) else None
        if isinstance(holder, dict) and old in holder:
            holder[new] = holder.pop(old)
    return document
