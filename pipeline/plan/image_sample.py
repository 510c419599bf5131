"""A look at due images before a run: their first bytes tell which calls will be made in vain, or twice.

Only Cloud Storage is read; no model is called.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections import Counter
from collections.abc import Sequence

import google.api_core.exceptions as api_errors
import google.auth.exceptions

from imagebeam.pipeline.plan.probe import chosen_query
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import first_line
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Image, ImageReason, Transport, Unit
from imagebeam.transforms.engine.image_parts import READERS, SNIFF_BYTES, supported_mime
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.unit_rows import unit_from_row
from imagebeam.transforms.tasks.forecast import ImageSample

_FORBIDDEN = ImageReason.FORBIDDEN.value


def look(bq: BigQueryClient, run: RunSettings, due: Query, units: int) -> ImageSample:
    """Looks at the images of some units that are due, the same ones each time.

    Args:
        bq: BigQuery client.
        run: What would be run.
        due: Its query.
        units: How many at most; those without an address of an image are left out.

    Raises:
        SystemicError: BigQuery cannot be used. Cloud Storage need not be: then the look says why.
    """
    rows = bq.query_rows(chosen_query(due, units), location=run.location, maximum_bytes_billed=run.maximum_bytes_billed)
    inline = run.engine.call_settings.transport == Transport.INLINE or run.task.image.changes_images
    return look_at([unit_from_row(row) for row in rows], inline=inline)


def look_at(units: Sequence[Unit], *, inline: bool) -> ImageSample:
    """Looks at the images of units, sixteen at a time.

    Args:
        units: Each with images.
        inline: Whether images will be read before a call, so that one that cannot be read makes none.
    """
    fate = functools.partial(_fate, inline=inline)
    try:
        # One alone first: where that may not be read, the others need not be tried.
        fates = Counter(map(fate, units[:1]))
        if fates[_FORBIDDEN, 1] + fates[_FORBIDDEN, 0]:
            return ImageSample(refused=f"this account may not read {units[0].images[0].uri}")
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            fates.update(readers.map(fate, units[1:]))
    except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError) as error:
        return ImageSample(refused=first_line(error))
    failing = Counter[str]()
    for (reason, _), number in fates.items():
        if reason is not None:
            failing[reason] += number
    return ImageSample(
        units=len(units),
        calls=sum(calls * number for (_, calls), number in fates.items()),
        repeated=sum(number for (_, calls), number in fates.items() if calls > 1),
        failing=dict(sorted(failing.items())),
    )


def _fate(unit: Unit, *, inline: bool) -> tuple[str | None, int]:
    """Why a unit will fail, if it will, and the calls that it takes: as :mod:`~parts` and :mod:`~asking` do it."""
    calls = 1
    for image in unit.images:
        named = images.mime_from_name(image.uri or "")
        try:
            found = _mime(image)
        except images.ImageError as problem:
            return problem.reason.value, 0 if inline or named is None else 1
        if not inline and named not in (None, found):
            calls = 2  # the name is believed until the service objects
    return None, calls


def _mime(image: Image) -> str:
    return supported_mime(storage.read_image(image.uri, limit=SNIFF_BYTES), image.uri)
