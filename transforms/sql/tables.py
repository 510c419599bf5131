"""The tables of the results dataset: their schemas as the REST API takes them, and the rows that go in.

All are append-only. A duplicate event (a retried insert, a worker that was thought dead) does no harm:
views and books take one row per unit, the answered one first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

import orjson

from imagebeam.transforms.core.records import Outcome, Status

Field = Mapping[str, Any]

RAW_TEXT_LIMIT = 4_000
MESSAGE_LIMIT = 1_000
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
# NUMERIC has 29 digits before the point and 9 behind it; Python works with 28 in all unless told otherwise.
_COST_LIMIT = Decimal(10) ** 28
_COST_STEP = Decimal("0.000000001")
_COST_CONTEXT = Context(prec=40)


@dataclasses.dataclass(frozen=True, slots=True)
class ResultTable:
    """A table that imagebeam makes.

    Attributes:
        schema: Its fields, REST JSON.
        clustering: Columns that it is clustered by.
        description: What a person reads in the console.
    """

    schema: tuple[Field, ...]
    clustering: tuple[str, ...]
    description: str


def field(name: str, kind: str, description: str, mode: str = "NULLABLE") -> Field:
    """A field of a schema, as the REST API takes it."""
    return {"name": name, "type": kind, "mode": mode, "description": description}


_TOKENS = (
    field("prompt_tokens", "INT64", "Input tokens, cached ones included."),
    field("cached_tokens", "INT64", "Input tokens served from the service's cache."),
    field("output_tokens", "INT64", "Tokens of the answer, thoughts not included."),
    field("thought_tokens", "INT64", "Tokens of thinking, billed as output."),
)

OUTCOMES = ResultTable(
    schema=(
        field("task", "STRING", "Task that was asked.", "REQUIRED"),
        field("version", "STRING", "Version of the task, see table task_versions.", "REQUIRED"),
        field("unit_id", "STRING", "Observation or asset that it is about.", "REQUIRED"),
        field("unit_type", "STRING", "observation or asset.", "REQUIRED"),
        field("input_digest", "STRING", "SHA-256 over the ids of the observations sent.", "REQUIRED"),
        field("status", "STRING", "OK, or what went wrong.", "REQUIRED"),
        field("reason", "STRING", "Reason code of a status other than OK."),
        field("message", "STRING", "What the service or the check said."),
        field("answer", "JSON", "The answer; only if OK."),
        field("raw_text", "STRING", "What the model said when that is no answer, cut."),
        field("asset_id", "STRING", "Asset that the unit belongs to."),
        field("asset_type", "STRING", "Class of the asset."),
        field("observation_ids", "STRING", "Observations sent, in the order sent.", "REPEATED"),
        field("image_uris", "STRING", "Their images.", "REPEATED"),
        field("snapshot_id", "STRING", "Snapshot of the source that the newest image came from."),
        field("capture_time", "TIMESTAMP", "When the newest image was taken."),
        field("latitude", "FLOAT64", "Degrees north."),
        field("longitude", "FLOAT64", "Degrees east."),
        field("map_url", "STRING", "A link for people."),
        field("extra", "JSON", "Columns of the source kept by --keep_columns."),
        field("model", "STRING", "Model that was asked."),
        field("model_version", "STRING", "Model version that the service names."),
        field("lane", "STRING", "online, flex ..."),
        field("traffic_type", "STRING", "What was billed, as the service says."),
        field("attempts", "INT64", "Calls made; those refused for quota do not count."),
        *_TOKENS,
        field("cost_usd", "NUMERIC", "Price of all calls for this unit at list price, in US dollars."),
        field("latency_ms", "INT64", "Of the call that decided, in milliseconds."),
        field("response_id", "STRING", "The service's id of the answer."),
        field("run_id", "STRING", "Run that asked.", "REQUIRED"),
        field("answered_at", "TIMESTAMP", "When the outcome was known.", "REQUIRED"),
    ),
    clustering=("task", "version", "unit_id"),
    description="imagebeam: every outcome of asking about a unit. Append-only; read it through the views.",
)

RUNS = ResultTable(
    schema=(
        field("run_id", "STRING", "The run.", "REQUIRED"),
        field("event", "STRING", "start, heartbeat or end.", "REQUIRED"),
        field("at", "TIMESTAMP", "When.", "REQUIRED"),
        field("task", "STRING", "Task that was asked."),
        field("version", "STRING", "Version of the task."),
        field("state", "STRING", "RUNNING, DONE, STOPPED or UNBALANCED."),
        field("units_in", "INT64", "Units of the source after all filters."),
        field("ok", "INT64", "Units answered."),
        field("failed", "INT64", "Units that failed, whatever the reason."),
        field("skipped", "INT64", "Units never sent; they stay due."),
        field("already_done", "INT64", "Units answered before by this version."),
        field("outdated", "INT64", "Units answered by an older version only, and not asked for."),
        field("calls", "INT64", "Calls sent, refused ones included."),
        field("throttled", "INT64", "Calls refused for quota."),
        *_TOKENS,
        field("cost_usd", "NUMERIC", "Price of all calls at list price, in US dollars."),
        field("who", "STRING", "Account that started the run."),
        field("host", "STRING", "Machine of the event."),
        field("pid", "INT64", "Process of the event."),
        field("source", "STRING", "Table or query of the observations."),
        field("filters", "JSON", "Filters as a person gave them."),
        field("snapshot", "STRING", "Newest snapshot of the source."),
        field("lane", "STRING", "online, flex ..."),
        field("model", "STRING", "Model that was asked."),
        field("message", "STRING", "Why it stopped, or what does not balance."),
        field("books", "JSON", "The books in full."),
    ),
    clustering=("run_id",),
    description="imagebeam: events of runs. View runs_history has one row per run.",
)

TASK_VERSIONS = ResultTable(
    schema=(
        field("task", "STRING", "Name of the task.", "REQUIRED"),
        field("version", "STRING", "12 hex digits over all that can change an answer.", "REQUIRED"),
        field("definition", "JSON", "All of that.", "REQUIRED"),
        field("description", "STRING", "What the task's author says about it."),
        field("created_at", "TIMESTAMP", "When a run used it.", "REQUIRED"),
        field("run_id", "STRING", "That run.", "REQUIRED"),
    ),
    clustering=("task", "version"),
    description="imagebeam: what each version of a task was; a version that several runs used has several rows.",
)

#: Every table that a run needs, by name.
TABLES: Mapping[str, ResultTable] = {"outcomes": OUTCOMES, "runs": RUNS, "task_versions": TASK_VERSIONS}


def outcome_row(outcome: Outcome, *, task: str, version: str, model: str, lane: str, run_id: str) -> dict[str, Any]:
    """The row of ``outcomes``, as a streaming insert takes it.

    JSON columns are JSON text, NUMERIC is text, and nothing is there that JSON or UTF-8 cannot say: numbers
    that are not finite are null, halves of surrogate pairs become U+FFFD.

    Raises:
        ValueError: The outcome has no ``answered_at``, or is SKIPPED: such a unit has no row.
    """
    if outcome.status is Status.SKIPPED or not outcome.answered_at:
        raise ValueError(f"unit {outcome.unit.unit_id} is {outcome.status.value} and was not asked: it has no row")
    unit, answer, usage = outcome.unit, outcome.answer, outcome.usage
    return {
        "task": task,
        "version": version,
        "unit_id": clean_text(unit.unit_id),
        "unit_type": unit.unit_type,
        "input_digest": unit.input_digest,
        "status": answer.status.value,
        "reason": clean_text(answer.reason),
        "message": clean_text(answer.message, MESSAGE_LIMIT),
        "answer": json_text(answer.value) if answer.ok and answer.value is not None else None,
        "raw_text": None if answer.ok else clean_text(answer.raw_text, RAW_TEXT_LIMIT),
        "asset_id": clean_text(unit.asset_id),
        "asset_type": clean_text(unit.asset_type),
        "observation_ids": [clean_text(image.observation_id) for image in unit.images],
        "image_uris": [clean_text(image.uri) for image in unit.images if image.uri],
        "snapshot_id": clean_text(unit.snapshot_id),
        "capture_time": unit.capture_time,
        "latitude": finite(unit.latitude),
        "longitude": finite(unit.longitude),
        "map_url": clean_text(unit.map_url),
        "extra": json_text(unit.extra) if unit.extra else None,
        "model": model,
        "model_version": clean_text(answer.model_version),
        "lane": lane,
        "traffic_type": clean_text(usage.traffic_type),
        "attempts": outcome.attempts,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "thought_tokens": usage.thought_tokens,
        "cost_usd": numeric(outcome.cost_usd),
        "latency_ms": outcome.latency_ms,
        "response_id": clean_text(answer.response_id),
        "run_id": run_id,
        "answered_at": outcome.answered_at,
    }


def row_id(outcome: Outcome, *, task: str, version: str, model: str, lane: str, run_id: str) -> str:
    """The insert id of the row: the same event gets the same id, however often it is sent.

    BigQuery forgets an id after about a minute; it is a courtesy, no promise. 32 hex digits.
    """
    parts = (
        *(task, version, model, lane, run_id, outcome.unit.unit_id, outcome.unit.input_digest),
        *(outcome.status.value, outcome.reason or "", outcome.answered_at or ""),
    )
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:32]


def json_text(value: Any) -> str:
    """JSON text that BigQuery's JSON type takes, whatever the value holds.

    Numbers that are not finite become null, integers beyond 64 bits the nearest floating-point number,
    halves of surrogate pairs U+FFFD, and values that JSON does not know their text.
    """
    return orjson.dumps(_plain(value)).decode()


def numeric(value: Decimal) -> str | None:
    """The text of a NUMERIC, to nine decimals; None for what NUMERIC cannot hold."""
    if not value.is_finite() or abs(value) >= _COST_LIMIT:
        return None
    return format(value.quantize(_COST_STEP, context=_COST_CONTEXT), "f")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value) if _INT64_MIN <= value <= _UINT64_MAX else _as_float(value)
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return clean_text(str(value))


def _as_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: float | None) -> float | None:
    """The number; None if it is none that JSON can say."""
    return value if value is not None and math.isfinite(value) else None


def clean_text(value: str | None, limit: int | None = None) -> str | None:
    """Text that UTF-8 can say, halves of surrogate pairs replaced; cut to ``limit`` characters."""
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value if limit is None else value[:limit]
