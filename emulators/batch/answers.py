"""Results of the rows of a batch job: a response, or the status of a failed row.

`LineHandler` is the interface of the handlers, one for each kind of model.
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
from imagebeam.emulators.fake_model.image_stats import COLORS, ImageStats
from imagebeam.emulators.vertex.answers import answer_body
from imagebeam.emulators.vertex.faults import MESSAGES, Rule, VertexFaults
from imagebeam.emulators.vertex.generate.images import ImageReader
from imagebeam.emulators.vertex.generate.text import generate_text
from imagebeam.emulators.vertex.generate.validation import Prompt, read_prompt
from imagebeam.emulators.vertex.models import Model

#: Number of distinct synthetic answers to requests that differ in their URIs only.
VARIANTS: Final = 128
#: Maximum number of request skeletons with cached answers.
MAX_CACHED: Final = 64
#: ``modelVersion`` of synthetic answers.
SYNTHETIC_VERSION: Final = "imagebeam-emulator-synthetic"
_OBJECT_URI: Final = re.compile(r"gs://[^/]+/.")
#: Actions that affect a connection, which a row of a batch job does not have.
_CONNECTION_FAULTS: Final = ("reset", "slow", "garbage")


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """The result of a row.

    Attributes:
        status: Empty, or ``<reason phrase>: {"error": ...}``.
        response: The response, as an object or as serialized JSON; empty if the row failed.
        uris: File URIs of the request.
        paid: Whether the row is billed.
    """

    status: str
    response: dict[str, Any] | orjson.Fragment
    uris: tuple[str, ...]
    paid: bool


class LineHandler(Protocol):
    """Answers the requests of one kind of model."""

    @property
    def omits_status(self) -> bool:
        """Whether output lines of successful rows have neither ``status`` nor ``processed_time``."""

    def answer_line(
        self, request: Any, model: Any, skeleton: bytes | None = None, *, blocked: bool = False
    ) -> RowAnswer:
        """Answer a row. Never raises for an invalid row.

        Args:
            request: ``request`` of the line, as imported.
            model: The model of the job.
            skeleton: Requests with the same skeleton differ in their URIs only; None if unknown.
            blocked: Whether to block the prompt.
        """

    def cached_answer(self, skeleton: bytes, uris: tuple[str, ...]) -> RowAnswer | None:
        """Return the cached answer to a row with a known skeleton, or None.

        Args:
            skeleton: As in `answer_line`.
            uris: File URIs of the request.
        """


@dataclass(slots=True)
class GenerateHandler:
    """Answers ``generateContent`` requests with the code of the online service. Thread-safe.

    Args:
        images: Measures the images.
        faults: The rules of section ``vertex`` for ``generateContent``. Their uses are counted separately from those
            of online calls. Rules that affect connections are ignored.
        seed: Seed of the model.
        synthetic: Derive the answers from a hash of the URIs and from the schema, without reading images.
    """

    images: ImageReader
    faults: VertexFaults
    seed: int
    synthetic: bool
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _seen: set[bytes] = field(init=False, default_factory=set)
    _cached: dict[bytes, list[orjson.Fragment]] = field(init=False, default_factory=dict)
    _texts: dict[tuple[str, str, int, int], str] = field(init=False, default_factory=dict)

    @property
    def omits_status(self) -> bool:
        """Every line has a status."""
        return False

    def answer_line(
        self, request: Any, model: Model, skeleton: bytes | None = None, *, blocked: bool = False
    ) -> RowAnswer:
        """Answer a row, see `LineHandler`."""
        uris = uris_of(request)
        try:
            prompt = read_prompt(request, model)
            rule = Rule(-1, "", 1.0, None, "blocked", "generateContent", {}) if blocked else self._rule(prompt)
            if rule is not None and rule.action == "http":
                raise rule.error()
            response = self._respond(prompt, rule)
            if self.synthetic and rule is None and skeleton is not None and not self.faults.has_rules:
                self._cache_answers(prompt, skeleton)
        except ApiError as problem:
            return RowAnswer(row_status(problem), {}, uris, paid=False)
        return RowAnswer("", response, uris, paid=True)

    def cached_answer(self, skeleton: bytes, uris: tuple[str, ...]) -> RowAnswer | None:
        """Return a cached answer, see `LineHandler`."""
        ready = self._cached.get(skeleton)
        if ready is None or not all(map(_OBJECT_URI.match, uris)):
            return None
        return RowAnswer("", ready[_variant(uris)], uris, paid=True)

    def _rule(self, prompt: Prompt) -> Rule | None:
        with self._lock:
            return find_row_rule(self.faults, "generateContent", prompt.uris, prompt.text)

    def _respond(self, prompt: Prompt, rule: Rule | None) -> dict[str, Any]:
        if not self.synthetic:
            measured = [self.images.measure(image) for image in prompt.images]
            return answer_body(prompt, generate_text(prompt, measured, self.seed), "ON_DEMAND", rule)
        return self._synthetic(prompt, rule, _variant(prompt.uris))

    def _synthetic(self, prompt: Prompt, rule: Rule | None, number: int) -> dict[str, Any]:
        kind = (prompt.generation.schema_text, prompt.generation.mime_type, len(prompt.images), number)
        text = self._texts.get(kind)
        if text is None:  # independent of the prompt, so that distinct prompts are fast too
            text = generate_text(replace(prompt, text=""), [_synthetic_stats(number)] * len(prompt.images), self.seed)
            if len(self._texts) < MAX_CACHED * VARIANTS:
                self._texts[kind] = text
        return answer_body(prompt, text, "ON_DEMAND", rule) | {"modelVersion": SYNTHETIC_VERSION}

    def _cache_answers(self, prompt: Prompt, skeleton: bytes) -> None:
        """Cache all answers to a skeleton once it is seen again. Rows with equal answers share a response ID."""
        if skeleton not in self._seen:
            if len(self._seen) < MAX_CACHED:
                self._seen.add(skeleton)
        elif skeleton not in self._cached:
            answers = (self._synthetic(prompt, None, number) for number in range(VARIANTS))
            self._cached[skeleton] = [orjson.Fragment(orjson.dumps(answer)) for answer in answers]


def uris_of(request: Any) -> tuple[str, ...]:
    """Return the distinct file URIs of a request, in camelCase or snake_case. Never raises."""
    found: dict[str, None] = {}
    fields = request if isinstance(request, Mapping) else {}
    contents = fields.get("contents") or fields.get("content")
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list) else [parts]:
            data = (part.get("fileData") or part.get("file_data")) if isinstance(part, Mapping) else None
            uri = (data.get("fileUri") or data.get("file_uri")) if isinstance(data, Mapping) else None
            if isinstance(uri, str):
                found[uri] = None
    return tuple(found)


def find_row_rule(faults: VertexFaults, method: str, uris: tuple[str, ...], text: str) -> Rule | None:
    """Return the rule that applies to a row, or None, and count its use. Not thread-safe.

    Args:
        faults: The rules.
        method: The corresponding online method.
        uris: File URIs of the request.
        text: Text of the prompt.
    """
    key = uris[0] if uris else hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    faults.refresh()
    rule = faults.rule(method, uris, text, key, faults.count_attempt(key))
    return None if rule is not None and rule.action in _CONNECTION_FAULTS else rule


def row_status(problem: ApiError) -> str:
    """Return the ``status`` of a row that failed with an error.

    >>> row_status(ApiError(400, "No."))
    'Bad Request: {"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}}'
    """
    try:
        phrase = http.HTTPStatus(problem.code).phrase
    except ValueError:
        phrase = "Client Closed Request" if problem.code == 499 else "Error"
    message = orjson.dumps(problem.message).decode()
    status = problem.status or STATUS_NAMES.get(problem.code, "UNKNOWN")
    return f'{phrase}: {{"error": {{"code": {problem.code}, "message": {message}, "status": "{status}"}}}}'


def failed_row(code: int) -> RowAnswer:
    """Return a row that fails with an HTTP code before it is processed."""
    return RowAnswer(row_status(ApiError(code, MESSAGES.get(code, f"HTTP {code}"))), {}, (), paid=False)


def _variant(uris: tuple[str, ...]) -> int:
    """Return the number of the answer variant for some files."""
    return hashlib.blake2b("\0".join(uris).encode(), digest_size=2).digest()[0] % VARIANTS


def _synthetic_stats(number: int) -> ImageStats:
    """Return synthetic statistics of an image, which is not read."""
    share = number / VARIANTS
    return ImageStats(
        width=640 + number,
        height=480,
        brightness=0.1 + 0.8 * share,
        contrast=0.05 + 0.3 * (number % 16) / 16,
        colorfulness=90 * (number % 8) / 8,
        sharpness=2.5 * (number % 32) / 32,
        edge_density=(number % 4) / 8,
        dominant_color=COLORS[number % len(COLORS)],
        entropy=3 + 5 * share,
        black_share=0.0,
        white_share=0.0,
        grey=number % 8 == 0,
    )
