"""Tables of the results dataset: their schemas as REST JSON, and their rows.

All tables are append-only. A duplicate event, such as a retried insert, is harmless: views and counts take one row per
unit, an answer before a failure.
"""

from __future__ import annotations

import contextlib
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
# NUMERIC has 29 digits before the point and 9 after it; Python's default context has 28 in total.
_COST_LIMIT = Decimal(10) ** 28
_COST_STEP = Decimal("0.000000001")
_COST_CONTEXT = Context(prec=40)


@dataclasses.dataclass(frozen=True, slots=True)
class ResultTable:
    """A table that imagebeam creates.

    Attributes:
        schema: Fields as REST JSON.
        clustering: Clustering columns.
        description: Description in the console.
    """

    schema: tuple[Field, ...]
    clustering: tuple[str, ...]
    description: str


def field(name: str, kind: str, description: str, mode: str = "NULLABLE") -> Field:
    """Return a field of a schema as REST JSON."""
    return {"name": name, "type": kind, "mode": mode, "description": description}


_TOKENS = (
    field("prompt_tokens", "INT64", "Input tokens, including cached ones."),
    field("cached_tokens", "INT64", "Input tokens read from the cache of the service."),
    field("output_tokens", "INT64", "Tokens of the answer, without thoughts."),
    field("thought_tokens", "INT64", "Tokens of thoughts, billed as output."),
)

OUTCOMES = ResultTable(
    schema=(
        field("task", "STRING", "Name of the task.", "REQUIRED"),
        field("version", "STRING", "Version of the task; see the table task_versions.", "REQUIRED"),
        field("unit_id", "STRING", "Id of the observation or asset.", "REQUIRED"),
        field("unit_type", "STRING", "observation or asset.", "REQUIRED"),
        field("input_digest", "STRING", "SHA-256 over the ids of the observations sent.", "REQUIRED"),
        field("status", "STRING", "OK, SUBMITTED (in a batch job), or the kind of failure.", "REQUIRED"),
        field("reason", "STRING", "Reason code of a status other than OK."),
        field("message", "STRING", "Error message of the service or of a check."),
        field("answer", "JSON", "The answer, if the status is OK."),
        field("raw_text", "STRING", "Text of the model if it is not a valid answer, truncated."),
        field("asset_id", "STRING", "Id of the asset."),
        field("asset_type", "STRING", "Class of the asset."),
        field("observation_ids", "STRING", "Ids of the observations in the request, in order.", "REPEATED"),
        field("image_uris", "STRING", "URIs of their images.", "REPEATED"),
        field("snapshot_id", "STRING", "Snapshot of the source with the newest image."),
        field("capture_time", "TIMESTAMP", "Capture time of the newest image."),
        field("latitude", "FLOAT64", "Degrees north."),
        field("longitude", "FLOAT64", "Degrees east."),
        field("map_url", "STRING", "Link to a map."),
        field("extra", "JSON", "Columns of the source copied with --keep_columns."),
        field("model", "STRING", "The model."),
        field("model_version", "STRING", "Model version as reported by the service."),
        field("lane", "STRING", "online, flex, batch or sql."),
        field("traffic_type", "STRING", "Traffic type as reported by the service."),
        field("attempts", "INT64", "Calls, excluding those rejected for quota."),
        *_TOKENS,
        field("cost_usd", "NUMERIC", "Cost of all calls for this unit at list price, in US dollars; NULL if unknown."),
        field("latency_ms", "INT64", "Latency of the last call, in milliseconds."),
        field("response_id", "STRING", "Id of the response, as reported by the service."),
        field("run_id", "STRING", "The run.", "REQUIRED"),
        field("answered_at", "TIMESTAMP", "Time of the outcome.", "REQUIRED"),
    ),
    clustering=("task", "version", "unit_id"),
    description="imagebeam: every outcome of a unit. Append-only; read it through the views.",
)

RUNS = ResultTable(
    schema=(
        field("run_id", "STRING", "The run.", "REQUIRED"),
        field("event", "STRING", "start, heartbeat or end.", "REQUIRED"),
        field("at", "TIMESTAMP", "Time of the event.", "REQUIRED"),
        field("task", "STRING", "Name of the task."),
        field("version", "STRING", "Version of the task."),
        field("state", "STRING", "RUNNING, DONE, STOPPED or UNBALANCED (the counts do not reconcile)."),
        field("units_in", "INT64", "Units in the source after all filters."),
        field("ok", "INT64", "Units answered."),
        field("failed", "INT64", "Units that failed, for any reason."),
        field("skipped", "INT64", "Units that were not sent; the next run processes them."),
        field("already_done", "INT64", "Units that this version had answered before the run."),
        field("outdated", "INT64", "Units answered only by another version, and not selected."),
        field("calls", "INT64", "Calls sent, including those rejected for quota."),
        field("throttled", "INT64", "Calls rejected for quota (429)."),
        *_TOKENS,
        field("cost_usd", "NUMERIC", "Cost of all calls at list price, in US dollars; NULL if unknown."),
        field("who", "STRING", "Account that started the run."),
        field("host", "STRING", "Host that wrote the event."),
        field("pid", "INT64", "Id of the process that wrote the event."),
        field("source", "STRING", "Table or query of the observations."),
        field("filters", "JSON", "Settings of the run, as given."),
        field("snapshot", "STRING", "Newest snapshot of the source."),
        field("lane", "STRING", "online, flex, batch or sql."),
        field("model", "STRING", "The model."),
        field("message", "STRING", "Why the run stopped, or which counts do not reconcile."),
        field("books", "JSON", "All counts of the run."),
    ),
    clustering=("run_id",),
    description="imagebeam: events of runs. The view runs_history has one row per run.",
)

TASK_VERSIONS = ResultTable(
    schema=(
        field("task", "STRING", "Name of the task.", "REQUIRED"),
        field("version", "STRING", "12 hex digits of a hash of everything that can change an answer.", "REQUIRED"),
        field("definition", "JSON", "Everything that can change an answer.", "REQUIRED"),
        field("description", "STRING", "Description from the task file."),
        field("created_at", "TIMESTAMP", "Time of the first use by a run.", "REQUIRED"),
        field("run_id", "STRING", "The run.", "REQUIRED"),
    ),
    clustering=("task", "version"),
    description="imagebeam: definition of each task version. A version used by several runs has several rows.",
)

#: Tables that every run needs, by name.
TABLES: Mapping[str, ResultTable] = {"outcomes": OUTCOMES, "runs": RUNS, "task_versions": TASK_VERSIONS}


def outcome_row(outcome: Outcome, *, task: str, version: str, model: str, lane: str, run_id: str) -> dict[str, Any]:
    """Return the row of ``outcomes`` for a streaming insert.

    JSON columns are JSON text, and NUMERIC is text. Numbers that are not finite become null, and lone surrogates
    become U+FFFD.

    Raises:
        ValueError: The outcome has no ``answered_at``, or is SKIPPED.
    """
    if outcome.status is Status.SKIPPED or not outcome.answered_at:
        raise ValueError(f"unit {outcome.unit.unit_id} is {outcome.status.value} or has no time: it has no row")
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
    """Return the insert id of the row, 32 hex digits. The same event always has the same id.

    BigQuery drops rows with a repeated id for about a minute, on a best-effort basis.
    """
    parts = (
        *(task, version, model, lane, run_id, outcome.unit.unit_id, outcome.unit.input_digest),
        *(outcome.status.value, outcome.reason or "", outcome.answered_at or ""),
    )
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:32]


def json_text(value: Any) -> str:
    """Return JSON text that BigQuery's JSON type accepts, for any value.

    Numbers that are not finite become null, integers beyond 64 bits the nearest floating-point number, lone
    surrogates U+FFFD, and values of other types their text.
    """
    return orjson.dumps(_plain(value)).decode()


def numeric(value: Decimal | None) -> str | None:
    """Return the text of a NUMERIC with nine decimals; None if the value is unknown or out of its range."""
    if value is None or not value.is_finite() or abs(value) >= _COST_LIMIT:
        return None
    return format(value.quantize(_COST_STEP, context=_COST_CONTEXT), "f")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        with contextlib.suppress(OverflowError):
            return int(value) if _INT64_MIN <= value <= _UINT64_MAX else float(value)
        return None
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return clean_text(str(value))


def finite(value: float | None) -> float | None:
    """Return the number; None if it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def clean_text(value: str | None, limit: int | None = None) -> str | None:
    """Return the text with lone surrogates replaced, truncated to ``limit`` characters."""
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value if limit is None else value[:limit]
