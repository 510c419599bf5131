"""The records that pass between the steps: units with their images, answers and outcomes.

Frozen values without dependencies on Beam or a client. Times are RFC 3339 strings in UTC, as in BigQuery
and JSON.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any


class Lane(enum.StrEnum):
    """How calls are sent to the model, which determines their price and latency.

    Attributes:
        ONLINE: One HTTP call per unit, at list price.
        FLEX: The same at half the price, with longer waits.
        BATCH: Batch prediction jobs, at half the price.
        SQL: BigQuery calls the model (embeddings only).
    """

    ONLINE = "online"
    FLEX = "flex"
    BATCH = "batch"
    SQL = "sql"


class UnitKind(enum.StrEnum):
    """What one call covers: a single observation, or an asset with several images."""

    OBSERVATION = "observation"
    ASSET = "asset"


class Transport(enum.StrEnum):
    """How images are sent to the model.

    Attributes:
        AUTO: Probe one image by URI; send bytes if the service lacks permission to read it. Replaced by one of the
            others before the first call.
        URI: The service reads the image from Cloud Storage.
        INLINE: The image's bytes are part of the request.
    """

    AUTO = "auto"
    URI = "uri"
    INLINE = "inline"


class Status(enum.StrEnum):
    """Status of an outcome, as the table ``outcomes`` holds it."""

    OK = "OK"
    BLOCKED = "BLOCKED"
    INVALID_ANSWER = "INVALID_ANSWER"
    BAD_REQUEST = "BAD_REQUEST"
    IMAGE_ERROR = "IMAGE_ERROR"
    UNAVAILABLE = "UNAVAILABLE"
    SUBMITTED = "SUBMITTED"
    SKIPPED = "SKIPPED"


class ImageReason(enum.StrEnum):
    """Reasons of :attr:`Status.IMAGE_ERROR`."""

    NOT_FOUND = "NOT_FOUND"
    UNREADABLE = "UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"
    TOO_LARGE = "TOO_LARGE"
    NO_URI = "NO_URI"
    FORBIDDEN = "FORBIDDEN"


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """One image of a unit.

    Attributes:
        observation_id: Identity of the observation, stable across snapshots.
        uri: ``gs://bucket/name`` of the image; None or malformed causes IMAGE_ERROR.
        capture_time: When the photo was taken, RFC 3339 in UTC.
        heading: Camera heading in degrees, −180 to 180.
        pitch: Camera pitch in degrees.
        roll: Camera roll in degrees.
        bbox: Left, top, right, bottom of the object in pixels of the source frame.
    """

    observation_id: str
    uri: str | None
    capture_time: str | None = None
    heading: float | None = None
    pitch: float | None = None
    roll: float | None = None
    bbox: tuple[float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """What one call covers: an observation, or an asset with up to K of its images.

    Attributes:
        unit_id: Id of the observation or the asset.
        unit_type: Observation or asset.
        input_digest: Lowercase hex sha256 over the ids of the observations that are sent, joined by commas
            in the order in which they are sent.
        images: The images in capture order (oldest first).
        asset_id: Asset the unit belongs to, if any.
        asset_type: Class of the asset, such as ``ASSET_CLASS_UTILITY_POLE``.
        snapshot_id: Snapshot of the source with the (newest) image.
        capture_time: Capture time of the newest image, RFC 3339 in UTC.
        latitude: Degrees north.
        longitude: Degrees east.
        map_url: Link to a map.
        extra: Columns of the source from ``--keep_columns``.
    """

    unit_id: str
    unit_type: UnitKind
    input_digest: str
    images: tuple[Image, ...]
    asset_id: str | None = None
    asset_type: str | None = None
    snapshot_id: str | None = None
    capture_time: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    map_url: str | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_uri(cls, uri: str, *, unit_id: str | None = None, extra: Mapping[str, Any] | None = None) -> Unit:
        """Return the unit of one image, for a pipeline with its own source.

        Args:
            uri: ``gs://bucket/name`` of the image.
            unit_id: Id of the image; by default its URI.
            extra: Values for ``{{extra.name}}`` in the prompt.
        """
        name = unit_id or uri
        digest = hashlib.sha256(name.encode()).hexdigest()
        return cls(name, UnitKind.OBSERVATION, digest, (Image(name, uri),), extra=extra or {})


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or several calls, as reported by the service.

    Attributes:
        prompt_tokens: Input tokens, cached ones included.
        cached_tokens: Input tokens served from the implicit cache.
        output_tokens: Tokens of the answer, thoughts not included.
        thought_tokens: Tokens of thinking, billed as output.
        traffic_type: Billed traffic type, such as ``ON_DEMAND`` or ``ON_DEMAND_FLEX``.
        images: Images of embedding calls, which may be billed per image.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0
    traffic_type: str | None = None
    images: int = 0

    @property
    def total_tokens(self) -> int:
        """All tokens that count toward a quota."""
        return self.prompt_tokens + self.output_tokens + self.thought_tokens

    def __add__(self, other: Usage) -> Usage:
        """Add the tokens; keep the later traffic type."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.thought_tokens + other.thought_tokens,
            other.traffic_type or self.traffic_type,
            self.images + other.images,
        )

    def times(self, calls: int) -> Usage:
        """Return the usage of a number of calls like this one."""
        return Usage(
            self.prompt_tokens * calls,
            self.cached_tokens * calls,
            self.output_tokens * calls,
            self.thought_tokens * calls,
            self.traffic_type,
            self.images * calls,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one call, or the reason that there is none; the same for every lane.

    Attributes:
        status: See :class:`Status`.
        reason: Reason code of a status other than OK, such as ``NOT_FOUND`` or ``SAFETY``; None if OK.
        message: What is wrong, one line; None if OK.
        value: The answer that fits the task's schema (``{"text": …}`` without a schema); only if OK.
        raw_text: The model's text if it is not a valid answer, truncated; None if OK.
        model_version: Model version that the service reports.
        response_id: The service's id of the response.
        usage: Tokens of the call.
        retryable: True if another call may give a better answer.
        vector: The embedding, for an embedding task; only if OK, and only until it is recorded.
    """

    status: Status
    reason: str | None = None
    message: str | None = None
    value: Mapping[str, Any] | None = None
    raw_text: str | None = None
    model_version: str | None = None
    response_id: str | None = None
    usage: Usage = Usage()
    retryable: bool = False
    vector: Sequence[float] | None = None

    @property
    def ok(self) -> bool:
        """True if the unit is answered."""
        return self.status is Status.OK


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one unit: a row of ``outcomes``, unless it is SKIPPED.

    Attributes:
        unit: The unit; its ids and location are copied into the row.
        answer: The final answer or failure.
        usage: Tokens of all calls for this unit, those with an invalid answer included.
        cost_usd: Their list price in US dollars; None if the price is unknown.
        attempts: Calls sent; those rejected for quota do not count.
        latency_ms: Latency of the last call, in milliseconds.
        answered_at: When, RFC 3339 in UTC; None if the unit was never sent.
    """

    unit: Unit
    answer: Answer
    usage: Usage = Usage()
    cost_usd: Decimal | None = Decimal(0)
    attempts: int = 0
    latency_ms: int = 0
    answered_at: str | None = None

    @property
    def status(self) -> Status:
        """Status of the answer."""
        return self.answer.status

    @property
    def reason(self) -> str | None:
        """Reason code of the answer."""
        return self.answer.reason


def utc_now() -> str:
    """Return the current time, RFC 3339 in UTC with microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
