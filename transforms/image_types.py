"""Types of the images in batch jobs: by name, compared with the first bytes of some or all images.

The online lane corrects a type after the service rejected it. A batch job can do so only in its next round, so that
types are compared before its requests are written, and rejected ones after its output is read.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import google.api_core.exceptions as api_errors

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.images import ImageError, mime_from_name
from imagebeam.transforms.core.records import Answer, ImageReason, Status, Unit
from imagebeam.transforms.engine.image_parts import SNIFF_BYTES, supported_mime
from imagebeam.transforms.gemini.batch_requests import named_types

#: ``sample``: compare a few images of every type; ``all``: compare every image.
TypeCheck = Literal["sample", "all"]
Types = Sequence[str] | ImageError

READERS: Final = 16
#: Images per type that are compared in every chunk of units. If one differs, all of this type are.
SAMPLE: Final = 8
#: After this many rejected images of a job that have the type that was sent, the cause must be another one.
MAX_RIGHT: Final = 200
#: Reason of a unit whose next request has another type.
WRONG_TYPE: Final = "WRONG_TYPE"
#: What the first bytes prove. Whether an object can be read is left to the service, which has another account.
_PROVEN: Final = (ImageReason.UNREADABLE, ImageReason.UNSUPPORTED)


class TypeReader:
    """Finds the types of the images of units before their requests are written.

    Args:
        readers: Threads for reading.
        check: Which images are compared.
        known: Types that an earlier round found, by URI.

    Attributes:
        sent: Types that are not those of the names, by URI.
    """

    def __init__(self, readers: concurrent.futures.Executor, check: TypeCheck, known: Mapping[str, str]) -> None:
        self._readers = readers
        self._check = check
        self._known = known
        self.sent: dict[str, str] = {}

    def read(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Types]]:
        """Yield units with the types of their images, or the reason why they cannot be sent."""
        named = [_named(unit) for unit in units]
        names = {
            str(image.uri): name
            for unit, types in zip(units, named, strict=True)
            if not isinstance(types, ImageError)
            for image, name in zip(unit.images, types, strict=True)
        }
        found: dict[str, str | ImageError] = dict(self._known)
        for name in dict.fromkeys(names.values()):
            uris = [uri for uri, each in names.items() if each == name and uri not in self._known]
            if name is None:
                found.update(zip(uris, self._readers.map(_sniff, uris), strict=True))
                continue
            sample = uris if self._check == "all" else uris[:SAMPLE]
            if different := self._different(name, sample):
                found |= different | self._different(name, uris[len(sample) :])
        for unit, types in zip(units, named, strict=True):
            yield unit, types if isinstance(types, ImageError) else self._types(types, unit, found)

    def _different(self, name: str, uris: Sequence[str]) -> dict[str, str | ImageError]:
        """Return the types of images that do not have the type of their names."""
        read = zip(uris, self._readers.map(_sniff_if_readable, uris), strict=True)
        return {uri: result for uri, result in read if result is not None and result != name}

    def _types(self, names: Sequence[str | None], unit: Unit, found: Mapping[str, str | ImageError]) -> Types:
        types: list[str] = []
        for image, name in zip(unit.images, names, strict=True):
            uri = str(image.uri)
            result = found.get(uri, name)
            if isinstance(result, ImageError):
                return result
            types.append(str(result))
            if name is not None and result != name:
                self.sent[uri] = types[-1]
        return types


class TypeCorrector:
    """Finds wrong types among the images that a job rejected.

    Args:
        readers: Threads for reading.
        sent: Types that were sent, by URI, where they are not those of the names.

    Attributes:
        corrected: The types to send in the next round, by URI.
    """

    def __init__(self, readers: concurrent.futures.Executor, sent: Mapping[str, str]) -> None:
        self._readers = readers
        self._sent = sent
        self._right = 0
        self.corrected: dict[str, str] = {}

    def correct(self, uris: Sequence[Sequence[str]], answers: Sequence[Answer]) -> Iterator[Answer]:
        """Yield the answers of rejected units, replaced where a wrong type explains the rejection.

        Args:
            uris: The URIs of each unit's images.
            answers: The answer of each unit, for which :func:`~retry_policy.may_be_image_type` is true.
        """
        flat = [uri for each in uris for uri in each] if self._right < MAX_RIGHT else []
        found = dict(zip(flat, self._readers.map(_sniff_if_readable, flat), strict=True))
        for each, answer in zip(uris, answers, strict=True):
            yield self._replaced(answer, {uri: found.get(uri) for uri in each})

    def _replaced(self, answer: Answer, found: Mapping[str, str | ImageError | None]) -> Answer:
        wrong: dict[str, str] = {}
        for uri, result in found.items():
            sent = self._sent.get(uri) or mime_from_name(uri)
            if isinstance(result, ImageError):
                return Answer(Status.IMAGE_ERROR, result.reason.value, result.message, usage=answer.usage)
            if result is not None and sent is not None and result != sent:
                wrong[uri] = f"{uri} was sent as {sent}, but is {result}"
                self.corrected[uri] = result
        if not wrong:
            self._right += 1
            return answer
        message = f"{next(iter(wrong.values()))}; the next round of jobs sends the right type"
        return Answer(Status.UNAVAILABLE, WRONG_TYPE, message, usage=answer.usage, retryable=True)


def _named(unit: Unit) -> Sequence[str | None] | ImageError:
    try:
        return named_types(unit)
    except ImageError as problem:
        return problem


def _sniff(uri: str) -> str | ImageError:
    try:
        return supported_mime(storage.read_image(uri, limit=SNIFF_BYTES), uri)
    except ImageError as problem:
        return problem


def _sniff_if_readable(uri: str) -> str | ImageError | None:
    """Return the type of an image, or what its first bytes prove; None if they cannot be read."""
    try:
        found = _sniff(uri)
    except (api_errors.GoogleAPIError, OSError):
        return None
    return None if isinstance(found, ImageError) and found.reason not in _PROVEN else found
