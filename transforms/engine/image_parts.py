"""The images of a unit as parts of a request: by URI as they are, or read, prepared and sent along."""

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
#: Image bytes of requests under way, at most; each is in memory about three times (raw, base64, request).
BYTES_IN_FLIGHT = 96 * 2**20

T = TypeVar("T")


class ByteWindow:
    """Bounds bytes under way; first come, first served. One holder may exceed the bound, alone.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int = BYTES_IN_FLIGHT) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    async def acquire(self, size: int) -> None:
        """Waits until so many bytes fit."""
        if self._waiting or not self._fits(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            await turn
        else:
            self._used += size

    def release(self, size: int) -> None:
        """Gives bytes back."""
        self._used -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            following, turn = self._waiting.popleft()
            self._used += following
            turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit


class ImageLoader:
    """Makes the parts of units; belongs to the engine's event loop.

    Args:
        task: Says how images are prepared.
        transport: ``uri`` or ``inline``.
        executor: Threads for reading and preparing.
    """

    def __init__(self, task: Task, transport: Transport, executor: concurrent.futures.Executor) -> None:
        self._task = task
        self._inline = transport == Transport.INLINE
        self._executor = executor
        self._window = ByteWindow()
        self._readers = asyncio.Semaphore(READERS)

    async def load(self, unit: Unit) -> list[ImagePart]:
        """The parts of a unit; give them back with :meth:`release` when its calls are over.

        Raises:
            ImageProblem: The row's problem.
        """
        if not unit.images:
            raise images.ImageProblem(ImageReason.NO_URI, "the unit has no image")
        if not self._inline:
            return [await self._by_uri(image) for image in unit.images]
        # A reader's place is kept until its bytes fit: what waits is never more than the readers hold.
        async with self._readers:
            made = [await self._blocking(functools.partial(inline_part, image, self._task)) for image in unit.images]
            await self._window.acquire(size_of(made))
        return made

    def release(self, parts: Sequence[ImagePart]) -> None:
        """Gives back what the parts hold."""
        if self._inline and parts:
            self._window.release(size_of(parts))

    async def correct(self, unit: Unit, parts: Sequence[ImagePart]) -> list[ImagePart] | Failure | None:
        """After the service could not take an image by its URI: what its first bytes say.

        Returns:
            Parts with the right types if one was declared wrongly, the row's failure if the bytes are no
            image that Gemini takes, None if the bytes say nothing new.
        """
        if self._inline:
            return None
        better = []
        for image, part in zip(unit.images, parts, strict=True):
            try:
                better.append(dataclasses.replace(part, mime_type=await self._sniff(image)))
            except images.ImageProblem as problem:
                return image_failure(problem)
            except Exception:
                return None  # a look that fails changes nothing of what the service said
        return better if better != list(parts) else None

    async def _by_uri(self, image: Image) -> ImagePart:
        uri = images.checked_uri(image.uri)
        # The name is believed until the service objects (see correct): a read per image would cost more.
        return ImagePart(images.mime_from_name(uri) or await self._sniff(image), uri=uri)

    async def _sniff(self, image: Image) -> str:
        head = await self._blocking(functools.partial(storage.read_image, image.uri, limit=SNIFF_BYTES))
        return supported_mime(head, image.uri)

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def inline_part(image: Image, task: Task) -> ImagePart:
    """Reads an image and prepares it as the task says: cropped, downscaled, or as it is."""
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
    """The type that the first bytes of an image tell.

    Raises:
        ImageProblem: They are no image, or one that Gemini does not take.
    """
    mime = images.sniff_mime(head)
    if mime is None:
        raise images.ImageProblem(ImageReason.UNREADABLE, f"not an image: {uri}")
    if mime not in images.SUPPORTED:
        raise images.ImageProblem(ImageReason.UNSUPPORTED, f"Gemini does not take {mime}: {uri}")
    return mime


def image_failure(problem: images.ImageProblem) -> Failure:
    """The row's failure that a problem of its image is."""
    return Failure(FailureKind.UNIT, Status.IMAGE_ERROR, problem.reason.value, problem.message, None)


def size_of(parts: Sequence[ImagePart]) -> int:
    """Image bytes of the parts."""
    return sum(len(part.data or b"") for part in parts)
