"""Load the images of a unit as parts of a request: by URI, or read, prepared and sent inline."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core import images
from imagebeam.transforms.core.records import Image, ImageReason, Status, Transport, Unit
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.tasks.task import Task

SNIFF_BYTES = 64
READERS = 16
#: Maximum image bytes of requests in flight; each is in memory about three times (raw, base64, request).
BYTES_IN_FLIGHT = 96 * 2**20

T = TypeVar("T")


class ByteWindow:
    """Limit the image bytes in flight, in FIFO order. A single image may exceed the limit.

    Args:
        limit: Maximum number of bytes.
    """

    def __init__(self, limit: int = BYTES_IN_FLIGHT) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    async def acquire(self, size: int) -> None:
        """Wait until this many bytes fit."""
        if self._waiting or not self._fits(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            await turn
        else:
            self._used += size

    def release(self, size: int) -> None:
        """Release bytes."""
        self._used -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self._used += size
            turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit


class ImageLoader:
    """Load the images of units; use it only on the engine's event loop.

    Args:
        task: The task, which defines how images are prepared.
        transport: URI or inline.
        executor: Threads for reading and preparing.
    """

    def __init__(self, task: Task, transport: Transport, executor: concurrent.futures.Executor) -> None:
        self._task = task
        self._inline = transport == Transport.INLINE
        self._executor = executor
        self._window = ByteWindow()
        self._readers = asyncio.Semaphore(READERS)

    async def load(self, unit: Unit) -> list[ImagePart]:
        """Return the image parts of a unit; call :meth:`release` with them after its calls.

        Raises:
            ImageError: An image cannot be sent.
        """
        if not unit.images:
            raise images.ImageError(ImageReason.NO_URI, "the unit has no image")
        if not self._inline:
            return [await self._by_uri(image) for image in unit.images]
        # A reader keeps its slot until its bytes fit, which limits the bytes that wait.
        async with self._readers:
            image_parts = [
                await self._blocking(functools.partial(inline_part, image, self._task)) for image in unit.images
            ]
            await self._window.acquire(size_of(image_parts))
        return image_parts

    def release(self, image_parts: Sequence[ImagePart]) -> None:
        """Return the bytes of image parts to the window."""
        if self._inline and image_parts:
            self._window.release(size_of(image_parts))

    async def correct(self, unit: Unit, image_parts: Sequence[ImagePart]) -> list[ImagePart] | Failure | None:
        """Check the types of images that the service rejected by URI, by their first bytes.

        Returns:
            Image parts with corrected types if one was wrong, the unit's failure if an image is not
            supported, None if the types were right.
        """
        if self._inline:
            return None
        better = []
        for image, part in zip(unit.images, image_parts, strict=True):
            try:
                better.append(dataclasses.replace(part, mime_type=await self._sniff(image)))
            except images.ImageError as problem:
                return image_failure(problem)
            except Exception:
                return None  # keep the message of the service
        return better if better != list(image_parts) else None

    async def _by_uri(self, image: Image) -> ImagePart:
        uri = images.checked_uri(image.uri)
        # The name is trusted until the service rejects it (see correct): a read per image would cost more.
        return ImagePart(images.mime_from_name(uri) or await self._sniff(image), uri=uri)

    async def _sniff(self, image: Image) -> str:
        head = await self._blocking(functools.partial(storage.read_image, image.uri, limit=SNIFF_BYTES))
        return supported_mime(head, image.uri)

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def inline_part(image: Image, task: Task) -> ImagePart:
    """Read an image and prepare it as the task defines: cropped, downscaled, or unchanged."""
    settings = task.image
    prepared = images.prepare(
        storage.read_image(image.uri),
        crop=image.bbox if settings.crop == "bbox" else None,
        padding=settings.padding,
        max_side=settings.max_side,
        quality=settings.quality,
    )
    return ImagePart(prepared.mime_type, data=prepared.data)


def supported_mime(head: bytes, uri: str | None) -> str:
    """Return the type of an image by its first bytes.

    Raises:
        ImageError: They are not an image, or not of a type that Gemini supports.
    """
    mime = images.sniff_mime(head)
    if mime is None:
        raise images.ImageError(ImageReason.UNREADABLE, f"not an image: {uri}")
    if mime not in images.SUPPORTED:
        raise images.ImageError(ImageReason.UNSUPPORTED, f"Gemini does not support {mime}: {uri}")
    return mime


def image_failure(problem: images.ImageError) -> Failure:
    """Return the failure of a unit with an image that cannot be sent."""
    return Failure(FailureKind.UNIT, Status.IMAGE_ERROR, problem.reason.value, problem.message, None)


def size_of(image_parts: Sequence[ImagePart]) -> int:
    """Return the bytes of inline images."""
    return sum(len(part.data or b"") for part in image_parts)
