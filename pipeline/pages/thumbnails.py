"""Thumbnails: images read from Cloud Storage and scaled down on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import requests

from imagebeam.pipeline.pages.cards import MIME_TYPES
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import first_line
from imagebeam.transforms.core.records import ImageReason

#: Longest side of a thumbnail in a contact sheet and in a notebook, in pixels.
SHEET_PX: Final = 320
NOTEBOOK_PX: Final = 224
_QUALITY, _THREADS = 80, 8


def load_thumbnails(uris: Sequence[str | None], pixels: int) -> list[images.PreparedImage | str]:
    """Read images and scale them down.

    Args:
        uris: ``gs://`` URIs.
        pixels: Longest side of a thumbnail.

    Returns:
        A thumbnail for each URI, or the reason that there is none.
    """

    def load(uri: str | None) -> images.PreparedImage | str:
        try:
            return make_thumbnail(storage.read_image(uri), pixels)
        except images.ImageError as problem:
            return f"no image: {problem.reason}"
        except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.RequestException) as error:
            return f"no image: {first_line(error, 80)}"

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(load, uris))


def make_thumbnail(data: bytes, pixels: int) -> images.PreparedImage:
    """Scale an image down.

    Raises:
        ImageError: It cannot be decoded, or browsers cannot show it.
    """
    made = images.prepare(data, crop=None, padding=0, max_side=pixels, quality=_QUALITY)
    if made.mime_type not in MIME_TYPES:
        raise images.ImageError(ImageReason.UNSUPPORTED, f"browsers do not show {made.mime_type}")
    return made
