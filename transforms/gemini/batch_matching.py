"""Match the output lines of a batch job with the units of its manifest.

One matcher serves one shard, which is one job; lines come in any order. A line is matched by its key. Where the
service echoed none, the images of the request decide, if no other unit of the
shard has the same ones. A line with a key of another shard is never matched by its images: it may belong to another
task.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from imagebeam.transforms.core.records import Answer
from imagebeam.transforms.gemini.batch_responses import OutputLine, parse_line

# Two units with the same images: the images identify neither.
_AMBIGUOUS = ""


class Cause(enum.StrEnum):
    """Why a line matches no unit."""

    UNREADABLE = "UNREADABLE"
    """It is not a JSON object: damaged, or truncated."""

    FOREIGN = "FOREIGN"
    """Its key or its images belong to no unit of this shard."""

    AMBIGUOUS = "AMBIGUOUS"
    """It has no key, and several units of the shard have its images."""

    NAMELESS = "NAMELESS"
    """It has neither a key nor images."""


@dataclasses.dataclass(frozen=True, slots=True)
class Matched:
    """A unit with its answer.

    Attributes:
        key: The unit's key.
        entry: Its line of the manifest.
        answer: The answer of its row.
        answered_at: When the service finished the row, RFC 3339 in UTC; None if it does not report it.
    """

    key: str
    entry: bytes
    answer: Answer
    answered_at: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Unmatched:
    """A line that matches no unit, for the file of unmatched lines.

    Attributes:
        cause: Why.
        text: The line, shortened.
    """

    cause: Cause
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """A unit without a line.

    Attributes:
        key: The unit's key.
        entry: Its line of the manifest.
    """

    key: str
    entry: bytes


@dataclasses.dataclass(slots=True)
class MatchCounts:
    """Counts of a shard: ``submitted = matched + missing``, ``lines = matched + duplicates + unmatched``.

    Attributes:
        submitted: Units of the manifest.
        lines: Lines read.
        matched: Units with at least one line.
        ok: Matched units with an answer.
        by_uri: Lines matched by their images.
        duplicates: Additional lines of a unit that is already matched.
        unmatched: Lines that match no unit, for any cause.
    """

    submitted: int = 0
    lines: int = 0
    matched: int = 0
    ok: int = 0
    by_uri: int = 0
    duplicates: int = 0
    unmatched: int = 0

    @property
    def missing(self) -> int:
        """Units without a line, so far."""
        return self.submitted - self.matched


class ShardMatcher:
    """Match the lines of one shard with its manifest, one line at a time.

    An answer is returned at once. A failure is held back, compressed and without the echoed request, until
    :meth:`finish`: a later line of the same unit may be an answer, and the first answer counts. In memory, a unit takes
    its manifest line and less than 400 bytes; a failure also takes its compressed line.

    Args:
        manifest: Key and manifest line of every unit of the shard; the lines are not interpreted.
        parse: Function that parses the answer of a line, see :func:`~batch_responses.parse_answer`.
        uris_of: Function that returns the image URIs of a manifest line, in the order sent; called only if a line has
            no key.

    Attributes:
        counts: Counts so far.

    Raises:
        ValueError: Two units have the same key.
    """

    def __init__(
        self,
        manifest: Iterable[tuple[str, bytes]],
        parse: Callable[[OutputLine], Answer],
        uris_of: Callable[[bytes], Sequence[str]],
    ) -> None:
        self._parse = parse
        self._uris_of = uris_of
        self._entries: dict[str, bytes] = {}
        self._answered: set[str] = set()
        self._waiting: dict[str, bytes] = {}
        for key, entry in manifest:
            if key in self._entries:
                raise ValueError(f"two units of the manifest have the key {key}")
            self._entries[key] = entry
        self.counts = MatchCounts(submitted=len(self._entries))

    def feed_line(self, line: OutputLine) -> Matched | Unmatched | None:
        """Match one parsed line or row of the output.

        Returns:
            The unit and its answer; the line, if it matches no unit; None for a failure (held back) or a duplicate.
        """
        self.counts.lines += 1
        key = line.key if line.key is not None and line.key in self._entries else self._key_by_images(line)
        if isinstance(key, Cause):
            self.counts.unmatched += 1
            return Unmatched(key, line.dead_letter)
        if key in self._answered or key in self._waiting:
            self.counts.duplicates += 1
        else:
            self.counts.matched += 1
        if key in self._answered:
            return None
        answer = self._parse(line)
        if answer.ok:
            self.counts.ok += 1
            self._answered.add(key)
            self._waiting.pop(key, None)
            return Matched(key, self._entries[key], answer, line.answered_at)
        if key not in self._waiting:
            self._waiting[key] = zlib.compress(line.without_echo(), 1)
        return None

    def finish(self) -> Iterator[Matched | Missing]:
        """After the last line, yield the failed units with their first failure, and the units without a line."""
        for key, entry in self._entries.items():
            if (waiting := self._waiting.get(key)) is not None:
                line = parse_line(zlib.decompress(waiting))
                yield Matched(key, entry, self._parse(line), line.answered_at)
            elif key not in self._answered:
                yield Missing(key, entry)

    def _key_by_images(self, line: OutputLine) -> str | Cause:
        if line.problem is not None:
            return Cause.UNREADABLE
        if line.key is not None:
            return Cause.FOREIGN
        if not (uris := line.uris):
            return Cause.NAMELESS
        key = self._by_images.get(hash(uris))
        if key == _AMBIGUOUS:
            return Cause.AMBIGUOUS
        if key is None or tuple(self._uris_of(self._entries[key])) != uris:
            return Cause.FOREIGN
        self.counts.by_uri += 1
        return key

    @functools.cached_property
    def _by_images(self) -> dict[int, str]:
        """Keys by a hash of the images, built at first use."""
        keys: dict[int, str] = {}
        for key, entry in self._entries.items():
            images = hash(tuple(self._uris_of(entry)))
            keys[images] = _AMBIGUOUS if images in keys else key
        return keys
