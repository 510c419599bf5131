"""Calls to the model before a run: whether it exists at the location, and how it can read images."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.pipeline.run.resolved_run import ResolvedRun
from imagebeam.transforms.clients import tuned_models
from imagebeam.transforms.clients.embedding_client import open_client
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.clients.vertex import GeminiClient, HttpResponse, ModelClient
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.core.images import mime_from_name
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Image, Lane, Transport, Unit, UnitKind, Usage
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind, classify_exception, classify_http
from imagebeam.transforms.gemini.requests import ImagePart, image_part, lane_headers
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.sql import sources
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage

#: Images that are tried, until one of them decides.
SAMPLE_IMAGES = 3
FREE_TIMEOUT_S = 60.0
PAID_TIMEOUT_S = 120.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one paid call.

    Attributes:
        failure: Why it failed; None if it succeeded.
        usd: Its cost at list price; None if unknown.
        body: Google's error document; empty if it succeeded.
    """

    failure: Failure | None
    usd: Decimal | None = Decimal(0)
    body: bytes | str = b""


async def check_model_exists(resolved: ResolvedRun) -> None:
    """Check that the model exists at the location and the project may use it.

    A tuned model must also have what the lane needs: an endpoint for calls, a model for batch jobs.

    Raises:
        UserError: It does not exist, or lacks it.
        SystemicError: Vertex AI cannot be used.
    """
    settings, task = resolved.settings, resolved.task
    if resolved.model_name.is_tuned:
        tuned_models.check_exists(resolved.model_name)
        if resolved.makes_calls:
            _ = resolved.call_model
        if settings.lane == Lane.BATCH:
            _ = resolved.job_model
        return
    client = GeminiClient(settings.project, settings.location)
    try:
        answer = await client.model_status(task.model)
    except Exception as error:
        failure = classify_exception(error)
        raise SystemicError(f"looking up model {task.model}: {failure.reason}: {failure.message}") from error
    finally:
        await client.close()
    if answer.code == 404:
        where = f" (imagebeam tasks show {task.name})" if task.prompt else ""
        raise UserError(
            f"model {task.model} does not exist at location {settings.location}, or project {settings.project} "
            "cannot use it",
            fix=f"check --model and --location{where}{suggestion(task.model, resolved.models.profiles)}",
        )
    if answer.code != 200:
        raise ApiError.from_response(f"looking up model {task.model}", answer.code, answer.body, answer.headers)


async def resolve_transport(resolved: ResolvedRun, units: int) -> Transport:
    """Decide how images reach the model. A call is made only where the settings leave it open.

    Args:
        resolved: The run.
        units: Units that the run will process.

    Raises:
        SystemicError: Vertex AI cannot be used.
    """
    settings, task = resolved.settings, resolved.task
    if resolved.needs_inline:
        return Transport.INLINE
    if settings.transport == Transport.URI or not units:
        return Transport.URI
    if task.counts_tokens:
        if not resolved.has_endpoint:
            return Transport.URI
        return await probe_transport(resolved, read_sample_uris(resolved))
    if settings.max_cost_usd is not None or settings.max_calls is not None:
        # Every call to an embedding model is billed, and this one would not be counted.
        return Transport.URI if settings.lane == Lane.BATCH else Transport.INLINE
    client = open_client(task, settings.project, settings.location)

    async def call(part: ImagePart) -> HttpResponse:
        # A paid call, about a hundredth of a cent.
        body = _build_body(resolved, Image("preflight", part.uri), part)
        return await client.send(task.model, body, headers={}, timeout_s=FREE_TIMEOUT_S)

    try:
        return await _first_answer(call, read_sample_uris(resolved))
    finally:
        await client.close()


async def probe_transport(resolved: ResolvedRun, uris: list[str]) -> Transport:
    """Find out whether the service can read images by URI with ``countTokens``, which is free of charge.

    Raises:
        SystemicError: Vertex AI cannot be used.
    """
    client = GeminiClient(resolved.settings.project, resolved.settings.location)

    async def count(part: ImagePart) -> HttpResponse:
        content = {"role": "user", "parts": [image_part(part, "default")]}
        return await client.count_tokens(resolved.call_model, {"contents": [content]}, timeout_s=FREE_TIMEOUT_S)

    try:
        return await _first_answer(count, uris)
    finally:
        await client.close()


async def call_once(
    resolved: ResolvedRun, image: Image, parts: Mapping[Transport, ImagePart]
) -> dict[Transport, ProbeResult]:
    """Call the model with one image as a run would, once per transport. The calls are paid and not recorded.

    Args:
        resolved: The run.
        image: The image.
        parts: The image as part of a request, by transport.
    """
    client = open_client(resolved.task, resolved.settings.project, resolved.settings.location)
    try:
        results = await asyncio.gather(*(_call(client, resolved, image, part) for part in parts.values()))
    finally:
        await client.close()
    return dict(zip(parts, results, strict=True))


async def _call(client: ModelClient, resolved: ResolvedRun, image: Image, part: ImagePart) -> ProbeResult:
    task, profile = resolved.task, resolved.profile
    body = _build_body(resolved, image, part)
    try:
        answer = await client.send(
            resolved.call_model, body, headers=lane_headers(Lane.ONLINE), timeout_s=PAID_TIMEOUT_S
        )
    except Exception as error:
        return ProbeResult(classify_exception(error))
    if answer.code != 200:
        return ProbeResult(classify_http(answer.code, answer.body, answer.headers), body=answer.body)
    try:
        usage = task_kind(task).parse_response(orjson.loads(answer.body)).usage
    except (ValueError, AttributeError):  # not a JSON object
        usage = Usage()
    if not usage.total_tokens:
        usage = estimate_usage(profile, task, 1)
    return ProbeResult(None, cost_usd(profile, Lane.ONLINE, usage))


def _build_body(resolved: ResolvedRun, image: Image, part: ImagePart) -> dict[str, Any]:
    unit = Unit("preflight", UnitKind.OBSERVATION, "", (image,))
    return task_kind(resolved.task).build_request(resolved.profile, unit, [part], {})


async def _first_answer(read: Callable[[ImagePart], Awaitable[HttpResponse]], uris: list[str]) -> Transport:
    """Let the service read images by URI until one call decides."""
    for uri in uris:
        try:
            answer = await read(ImagePart(mime_from_name(uri) or "image/jpeg", uri=uri))
        except Exception as error:  # a broken connection does not depend on the image
            _log.info("reading %s: %s", uri, error)
            continue
        if answer.code == 200:
            return Transport.URI
        failure = classify_http(answer.code, answer.body, answer.headers)
        if failure.kind is FailureKind.UNIT and failure.reason == "FORBIDDEN":
            return Transport.INLINE
        if failure.kind is FailureKind.RUN:
            raise ApiError("reading an image", failure, status=answer.code, body=answer.body)
    return Transport.URI


def read_sample_uris(resolved: ResolvedRun) -> list[str]:
    """Read the URIs of a few images of the source."""
    rows = resolved.bq.query_rows(sample_query(resolved.source), location=resolved.location)
    return [str(row["uri"]) for row in rows]


def sample_query(source: sources.Source) -> Query:
    """Build the query for the URIs of a few images of the source."""
    uri = sources.canonical_sql(source, "uri", "source")
    return Query(f"SELECT {uri} AS uri FROM {source.sql()} AS source WHERE {uri} LIKE 'gs://%' LIMIT {SAMPLE_IMAGES}")
