"""Read the first bytes of images before a run: this shows which calls will fail, and which will be sent twice.

Only Cloud Storage is read; no model is called.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections import Counter
from collections.abc import Sequence

import google.api_core.exceptions as api_errors
import google.auth.exceptions

from imagebeam.pipeline.planning.probe import sample_units_query
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import first_line
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import ImageReason, Transport, Unit
from imagebeam.transforms.engine.image_parts import READERS, SNIFF_BYTES, supported_mime
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.unit_rows import unit_from_row
from imagebeam.transforms.tasks.forecast import ImageSample


def read_sample(bq: BigQueryClient, run: RunSettings, remaining: Query, units: int) -> ImageSample:
    """Read the images of some remaining units, a deterministic subset.

    Args:
        bq: BigQuery client.
        run: The run that is planned.
        remaining: Its query.
        units: Maximum number of units. Units without image URIs are left out.

    Raises:
        SystemicError: BigQuery cannot be used. Errors of Cloud Storage are part of the result.
    """
    query = sample_units_query(remaining, units)
    rows = bq.query_rows(query, location=run.location, maximum_bytes_billed=run.maximum_bytes_billed)
    inline = run.engine.call_settings.transport == Transport.INLINE or run.task.image.changes_images
    return read_images([unit_from_row(row) for row in rows], inline=inline)


def read_images(units: Sequence[Unit], *, inline: bool) -> ImageSample:
    """Read the images of units, several at a time.

    Args:
        units: Each with images.
        inline: Whether the run reads images before a call, so that an unreadable image makes no call.
    """
    predict = functools.partial(_predict, inline=inline)
    try:
        # Read one image first: without permission, the others fail as well.
        outcomes = list(map(predict, units[:1]))
        if outcomes and outcomes[0][0] == ImageReason.FORBIDDEN.value:
            return ImageSample(refused=f"this account cannot read {units[0].images[0].uri}")
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            outcomes += readers.map(predict, units[1:])
    except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError) as error:
        return ImageSample(refused=first_line(error))
    failing = Counter(reason for reason, _ in outcomes if reason is not None)
    return ImageSample(
        units=len(units),
        calls=sum(calls for _, calls in outcomes),
        repeated=sum(calls > 1 for _, calls in outcomes),
        failing=dict(sorted(failing.items())),
    )


def _predict(unit: Unit, *, inline: bool) -> tuple[str | None, int]:
    """Return the reason for which a unit will fail, or None, and the calls that it takes, as in the engine."""
    calls = 1
    for image in unit.images:
        named = images.mime_from_name(image.uri or "")
        try:
            found = supported_mime(storage.read_image(image.uri, limit=SNIFF_BYTES), image.uri)
        except images.ImageError as problem:
            return problem.reason.value, 0 if inline or named is None else 1
        if not inline and named not in (None, found):
            calls = 2  # the type in the name is sent first, and the service rejects it
    return None, calls
