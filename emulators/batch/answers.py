"""What becomes of one row of a batch job: its answer, or the status that says why there is none.

`LineHandler` is the seam: one handler answers ``generateContent`` requests; other kinds of models bring theirs.
"""

import hashlib
import http
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import orjson

from imagebeam.emulators.core.http import STATUS_NAMES, ApiError
from imagebeam.emulators.fake_model.pixels import COLOURS, Measurements
from imagebeam.emulators.vertex.answers import answer_body
from imagebeam.emulators.vertex.faults import MESSAGES, Rule, VertexFaults
from imagebeam.emulators.vertex.generate.images import ImageReader
from imagebeam.emulators.vertex.generate.thinking import think
from imagebeam.emulators.vertex.generate.validation import Prompt, read_prompt
from imagebeam.emulators.vertex.models import Model

#: Different answers that the rehearsal mode gives to requests that differ in their URIs only.
VARIANTS: Final = 128
#: Kinds of requests for which they are kept.
REMEMBERED: Final = 64
#: What a rehearsed answer says who wrote it.
SYNTHETIC_VERSION: Final = "imagebeam-emulator-synthetic"
_GOOD: Final = re.compile(r"gs://[^/]+/.")
#: What can only happen to a connection; a row of a batch job has none.
_OF_CONNECTIONS: Final = ("reset", "slow", "garbage")


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """What became of a row.

    Attributes:
        status: Empty, or ``<reason phrase>: {"error": ...}``.
        response: The answer, as an object or as its JSON; empty when the row failed.
        uris: Files of the request.
        paid: Whether it is billed.
    """

    status: str
    response: dict[str, Any] | orjson.Fragment
    uris: tuple[str, ...]
    paid: bool


class LineHandler(Protocol):
    """Answers the requests of one kind of models."""

    @property
    def plain(self) -> bool:
        """Whether the line of a good row has neither ``status`` nor ``processed_time``."""

    def answer_line(self, request: Any, model: Any, like: bytes | None = None, *, blocked: bool = False) -> RowAnswer:
        """Answer a row; never raises for what is wrong with the row.

        Args:
            request: The line's ``request`` as it was imported.
            model: Who is asked; of the handler's kind.
            like: Requests with the same ``like`` differ in their URIs only; ``None`` tells nothing.
            blocked: The prompt is to be blocked.
        """

    def recall(self, like: bytes, uris: tuple[str, ...]) -> RowAnswer | None:
        """Answer a row by its files alone, if it is like one that was answered and nobody has to look.

        Args:
            like: As in `answer_line`.
            uris: Files of the request.
        """


@dataclass(slots=True)
class GenerateHandler:
    """Answers ``generateContent`` requests with the code of the online service; safe to use from many threads.

    Args:
        images: Looks at the images.
        faults: The rules of section ``vertex`` for ``generateContent``; their uses are counted apart from the
            online lane's. What only a connection can suffer does not happen.
        seed: Seed of the model.
        synthetic: Answer from a hash of the URIs, and the schema, without looking.
    """

    images: ImageReader
    faults: VertexFaults
    seed: int
    synthetic: bool
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _seen: set[bytes] = field(init=False, default_factory=set)
    _ready: dict[bytes, list[orjson.Fragment]] = field(init=False, default_factory=dict)
    _texts: dict[tuple[str, str, int, int], str] = field(init=False, default_factory=dict)

    @property
    def plain(self) -> bool:
        """It says the status of every row."""
        return False

    def answer_line(self, request: Any, model: Model, like: bytes | None = None, *, blocked: bool = False) -> RowAnswer:
        """Answer a row, see `LineHandler`."""
        uris = uris_of(request)
        try:
            prompt = read_prompt(request, model)
            rule = Rule(-1, "", 1.0, None, "blocked", "generateContent", {}) if blocked else self._rule(prompt)
            if rule is not None and rule.action == "http":
                raise rule.error()
            response = self._respond(prompt, rule)
            if self.synthetic and rule is None and like is not None and not self.faults.has_rules:
                self._prepare(prompt, like)
        except ApiError as problem:
            return RowAnswer(status_of(problem), {}, uris, paid=False)
        return RowAnswer("", response, uris, paid=True)

    def recall(self, like: bytes, uris: tuple[str, ...]) -> RowAnswer | None:
        """Answer a row by its files alone, see `LineHandler`."""
        ready = self._ready.get(like)
        if ready is None or not all(map(_GOOD.match, uris)):
            return None
        return RowAnswer("", ready[_number(uris)], uris, paid=True)

    def _rule(self, prompt: Prompt) -> Rule | None:
        with self._lock:
            return row_rule(self.faults, "generateContent", prompt.uris, prompt.text)

    def _respond(self, prompt: Prompt, rule: Rule | None) -> dict[str, Any]:
        if not self.synthetic:
            measured = [self.images.measure(image) for image in prompt.images]
            return answer_body(prompt, think(prompt, measured, self.seed), "ON_DEMAND", rule)
        return self._synthetic(prompt, rule, _number(prompt.uris))

    def _synthetic(self, prompt: Prompt, rule: Rule | None, number: int) -> dict[str, Any]:
        kind = (prompt.generation.schema_text, prompt.generation.mime_type, len(prompt.images), number)
        text = self._texts.get(kind)
        if text is None:  # the prompt has no say, so that prompts that all differ are quick too
            text = think(replace(prompt, text=""), [_imagined(number)] * len(prompt.images), self.seed)
            if len(self._texts) < REMEMBERED * VARIANTS:
                self._texts[kind] = text
        return answer_body(prompt, text, "ON_DEMAND", rule) | {"modelVersion": SYNTHETIC_VERSION}

    def _prepare(self, prompt: Prompt, like: bytes) -> None:
        """Keep all answers to a kind of request that is seen again. They share their ids: nobody was asked."""
        if like not in self._seen:
            if len(self._seen) < REMEMBERED:
                self._seen.add(like)
        elif like not in self._ready:
            answers = (self._synthetic(prompt, None, number) for number in range(VARIANTS))
            self._ready[like] = [orjson.Fragment(orjson.dumps(answer)) for answer in answers]


def uris_of(request: Any) -> tuple[str, ...]:
    """Return the files of a request, without repetitions, in either spelling; never raises."""
    found: dict[str, None] = {}
    told = request if isinstance(request, Mapping) else {}
    contents = told.get("contents") or told.get("content")
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list) else [parts]:
            data = (part.get("fileData") or part.get("file_data")) if isinstance(part, Mapping) else None
            uri = (data.get("fileUri") or data.get("file_uri")) if isinstance(data, Mapping) else None
            if isinstance(uri, str):
                found[uri] = None
    return tuple(found)


def row_rule(faults: VertexFaults, method: str, uris: tuple[str, ...], text: str) -> Rule | None:
    """Return the rule that applies to a row, and count its use; for one thread at a time.

    Args:
        faults: The rules.
        method: The online method that the row is like.
        uris: Files of the request.
        text: Its prompt.
    """
    key = uris[0] if uris else hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    faults.refresh()
    rule = faults.rule(method, uris, text, key, faults.ask(key))
    return None if rule is not None and rule.action in _OF_CONNECTIONS else rule


def status_of(problem: ApiError) -> str:
    """Return a row's status for an error.

    >>> status_of(ApiError(400, "No."))
    'Bad Request: {"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}}'
    """
    try:
        phrase = http.HTTPStatus(problem.code).phrase
    except ValueError:
        phrase = "Client Closed Request" if problem.code == 499 else "Error"
    told = orjson.dumps(problem.message).decode()
    status = problem.status or STATUS_NAMES.get(problem.code, "UNKNOWN")
    return f'{phrase}: {{"error": {{"code": {problem.code}, "message": {told}, "status": "{status}"}}}}'


def failed_row(code: int) -> RowAnswer:
    """Return a row that fails with a code, in the service's words, before anybody looks at it."""
    return RowAnswer(status_of(ApiError(code, MESSAGES.get(code, f"HTTP {code}"))), {}, (), paid=False)


def _number(uris: tuple[str, ...]) -> int:
    """Return which of the variants some files have."""
    return hashlib.blake2b("\0".join(uris).encode(), digest_size=2).digest()[0] % VARIANTS


def _imagined(number: int) -> Measurements:
    """Return what is to be seen on an image that nobody looks at."""
    share = number / VARIANTS
    return Measurements(
        width=640 + number,
        height=480,
        brightness=0.1 + 0.8 * share,
        contrast=0.05 + 0.3 * (number % 16) / 16,
        colourfulness=90 * (number % 8) / 8,
        sharpness=2.5 * (number % 32) / 32,
        edge_density=(number % 4) / 8,
        dominant_colour=COLOURS[number % len(COLOURS)],
        entropy=3 + 5 * share,
        black_share=0.0,
        white_share=0.0,
        grey=number % 8 == 0,
    )
