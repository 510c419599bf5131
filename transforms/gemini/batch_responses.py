"""Parse the output of a batch job, lines or rows; answers are parsed as in the online lane.

A line has the key of the request (usually), the request as the import rendered it, a response, and a status
that is empty unless the row failed. An empty status does not mean success: the response is parsed as in the online
lane. A failed row's status is ``<reason phrase>: <Google's error document>``, and is classified as in the online lane.
"""

from __future__ import annotations

import dataclasses
import http
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from imagebeam.transforms.core.records import Answer, Lane, Outcome, Status, Unit, Usage
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind, classify_http, one_line
from imagebeam.transforms.gemini.json_values import dump_json, integer_of, load_json, mapping_of, text_of, utc_time_of
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.tasks.costs import cost_usd
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

DEAD_LETTER_CHARS = 4000
# An answer has at least one of these.
_ANSWERS = ("candidates", "promptFeedback", "embedding")

# google.rpc.Code → HTTP, as Google's API guide pairs them: some services put the former into ``code``.
_HTTP_OF_RPC = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500,
    14: 503, 15: 500, 16: 401,
}  # fmt: skip
_HTTP_OF_PHRASE = {status.phrase.lower(): status.value for status in http.HTTPStatus}
_HTTP_OF_STATUS = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "INTERNAL": 500, "UNKNOWN": 500, "DATA_LOSS": 500, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class RowError:
    """The error of a failed row.

    Attributes:
        code: HTTP status; None if unknown.
        status: Google's status, such as ``INVALID_ARGUMENT``; empty if unknown.
        message: Error message of the service.
        document: Google's error document, JSON.
    """

    code: int | None
    status: str
    message: str
    document: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class OutputLine:
    """One line of a job's output, valid or not.

    Attributes:
        raw: The bytes.
        key: Key of the request; None if the service did not echo it.
        request: The echoed request, of any shape; None if it was not echoed.
        response: The response; None if there is none.
        status: Status of the row, unparsed; empty if it did not fail.
        processed_time: When the service finished the row, unparsed.
        problem: Why this is not an output line, such as truncation; None if it is one.
    """

    raw: bytes
    key: str | None = None
    request: Any = None
    response: Mapping[str, Any] | None = None
    status: Any = None
    processed_time: Any = None
    problem: str | None = None

    @property
    def error(self) -> RowError | None:
        """Error of the row, parsed from the status; None if it did not fail."""
        return _error(self.status) if self.status else None

    @property
    def answered_at(self) -> str | None:
        """When the service finished the row, RFC 3339 in UTC; None if it does not report it."""
        time = utc_time_of(self.processed_time)
        return None if time is None else time.isoformat(timespec="microseconds").replace("+00:00", "Z")

    @property
    def uris(self) -> tuple[str, ...]:
        """Image URIs of the echoed request, in order; field names may be camelCase or snake_case."""
        return tuple(_uris(self.request))

    @property
    def dead_letter(self) -> str:
        """The line as text, truncated to 4,000 characters."""
        return self.raw[: 4 * DEAD_LETTER_CHARS].decode("utf-8", "replace")[:DEAD_LETTER_CHARS]

    def without_echo(self) -> bytes:
        """Return the line without its request: a smaller line that parses to the same, except for its images."""
        fields = {
            "custom_id": self.key,
            "status": self.status if isinstance(self.status, dict) else str(self.status or ""),
            "processed_time": self.processed_time,
            "response": self.response,
        }
        return self.raw if self.problem else dump_json(fields) or self.raw


def parse_line(raw: bytes) -> OutputLine:
    """Parse one line of JSONL output; never raises."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return OutputLine(raw, problem=f"not JSON: {error}")
    if not isinstance(document, dict):
        return OutputLine(raw, problem="not a JSON object")
    return _read(raw, document)


def parse_row(row: Mapping[str, Any]) -> OutputLine:
    """Parse one row of an output table, whose request and response may be JSON text; never raises."""
    raw = dump_json(dict(row))
    document = load_json(raw)  # as in a line: times are text, and no number is infinite
    if not isinstance(document, dict):
        return OutputLine(repr(row).encode("utf-8", "replace"), problem="not a row that JSON can represent")
    for name in ("request", "response"):
        if isinstance(document.get(name), str):
            document[name] = load_json(document[name])
    return _read(raw, document)


def parse_answer(line: OutputLine, task: Task) -> Answer:
    """Parse the answer of a row with the code that parses online responses.

    Args:
        line: The row.
        task: The task.

    Returns:
        The answer. A failure that would stop an online run is UNAVAILABLE for this row only: the job has
        processed the others. The reason is NO_ANSWER for a row that the job did not reach, UNKNOWN for a
        status that cannot be read.
    """
    # The output is a table: a row without an answer may have all its fields, and null in each.
    response = {name: value for name, value in (line.response or {}).items() if value is not None}
    answer = task_kind(task).parse_response(response)
    failure = _failure(line, response)
    if failure is None:
        return answer
    return dataclasses.replace(
        answer,
        status=failure.status,
        reason=failure.reason,
        message=failure.message,
        value=None,
        raw_text=None,
        # Without a response nothing was processed, and nothing is billed.
        usage=answer.usage if response else Usage(),
        retryable=failure.kind in (FailureKind.THROTTLED, FailureKind.TRANSIENT),
        vector=None,
    )


def build_outcome(unit: Unit, answer: Answer, profile: ModelProfile, *, attempts: int = 1, answered_at: str) -> Outcome:
    """Build the outcome of a unit from the answer of its row.

    Args:
        unit: The unit.
        answer: Its answer.
        profile: The task's model, for the price of the batch lane.
        attempts: Calls about the unit, those of earlier rounds included.
        answered_at: When, RFC 3339 in UTC.
    """
    cost = cost_usd(profile, Lane.BATCH, answer.usage)
    return Outcome(unit, answer, answer.usage, cost, attempts=attempts, answered_at=answered_at)


def _failure(line: OutputLine, response: Mapping[str, Any]) -> Failure | None:
    """Return the failure of a row; None if there is a response to parse."""
    if line.problem is not None:
        return Failure(FailureKind.TRANSIENT, Status.UNAVAILABLE, "GARBAGE", line.problem)
    error = line.error
    if error is None:
        if response:
            return None
        return Failure(
            FailureKind.TRANSIENT, Status.UNAVAILABLE, "NO_ANSWER", "the job ended without an answer for this row"
        )
    if error.code is not None:
        return classify_http(error.code, error.document, {})
    if any(response.get(name) for name in _ANSWERS):
        return None  # an unknown status beside an answer
    return Failure(FailureKind.TRANSIENT, Status.UNAVAILABLE, "UNKNOWN", one_line(error.message))


# -- reading -----------------------------------------------------------------------------------------------


def _read(raw: bytes, document: Mapping[str, Any]) -> OutputLine:
    response = document.get("response")
    return OutputLine(
        raw,
        _key(document),
        document.get("request"),
        response if isinstance(response, dict) else None,
        document.get("status"),
        document.get("processed_time"),
    )


def _key(document: Mapping[str, Any]) -> str | None:
    return text_of(document.get("custom_id")) or text_of(document.get("key")) or None


def _error(status: Any) -> RowError | None:
    """Parse the error of a status, usually ``Bad Request: {"error": {...}}``."""
    found: Any
    if isinstance(status, Mapping):
        text, phrase, found = dump_json(status).decode(), "", status
    else:
        text = str(status)
        start, end = text.find("{"), text.rfind("}")
        phrase = text if start < 0 else text[:start]
        found = mapping_of(load_json(text[start : end + 1])) if 0 <= start < end else {}
    error = found.get("error", found)
    if not isinstance(error, Mapping):
        error = {"message": str(error)}
    word, message = text_of(error.get("status")), text_of(error.get("message")) or text
    if not phrase.strip() and not error:
        return None
    essence = {"message": message, "status": word}
    # The details name a disabled API; they are omitted if they are nested too deep to be written.
    document = dump_json({"error": {**error, **essence}}) or dump_json({"error": essence})
    return RowError(_code(error.get("code"), word, phrase), word, message, document)


def _code(value: Any, word: str, phrase: str) -> int | None:
    """Return the HTTP status: from the document's code, else its status, else the phrase before it."""
    name = phrase.partition(":")[0].strip()
    number = integer_of(value)
    candidates = (
        number,
        None if number is None else _HTTP_OF_RPC.get(number),
        _HTTP_OF_STATUS.get(word),
        integer_of(name[:3]),
        _HTTP_OF_PHRASE.get(name.lower()),
        _HTTP_OF_STATUS.get(name),
    )
    return next((code for code in candidates if code is not None and 400 <= code <= 599), None)


def _uris(request: Any) -> Iterator[str]:
    """Yield every file URI of a request, in both spellings; nulls are skipped."""
    request = mapping_of(load_json(request) if isinstance(request, str) else request)
    contents = request.get("contents") or request.get("content")
    for content in contents if isinstance(contents, list) else [contents]:
        parts = mapping_of(content).get("parts")
        for part in map(mapping_of, parts if isinstance(parts, list) else [parts]):
            file = mapping_of(part.get("fileData") or part.get("file_data"))
            uri = file.get("fileUri") or file.get("file_uri")
            if isinstance(uri, str):
                yield uri
