"""Whether the model answers here, and may read the images: asked before anything is paid."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.embedding_client import open_client
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.clients.vertex import GeminiClient, HttpResponse, ModelClient
from imagebeam.transforms.core.errors import SystemicError, UserError
from imagebeam.transforms.core.images import mime_from_name
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Image, Lane, Transport, Unit, UnitKind, Usage
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind, classify_exception, classify_http
from imagebeam.transforms.gemini.requests import ImagePart, image_part, lane_headers
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.sql import sources
from imagebeam.transforms.tasks.model_profiles import ModelProfile, cost_usd, estimate_usage
from imagebeam.transforms.tasks.task import Task

PROBES = 3
PROBE_TIMEOUT_S = 120.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What one paid call came to.

    Attributes:
        failure: Why there was no answer; None if there was.
        usd: What it cost at list price.
        body: Google's error document; empty if there was an answer.
    """

    failure: Failure | None
    usd: Decimal = Decimal(0)
    body: bytes | str = b""


async def check_model(
    settings: ClassifySettings,
    task: Task,
    source: sources.Source,
    bq: BigQueryClient,
    location: str,
    *,
    due: int,
) -> Transport:
    """Checks that the model answers here, and settles how images travel.

    Raises:
        UserError: The model is not known at this location.
        SystemicError: Vertex AI cannot be used.
    """
    await check_exists(settings, task)
    if settings.transport == Transport.INLINE or task.image.changes_images:
        return Transport.INLINE
    if settings.transport == Transport.URI or not due:
        return Transport.URI
    if not task.counts_tokens and (settings.max_cost_usd is not None or settings.max_calls is not None):
        # Embedding models have no call that is free, and every call counts; a batch job knows one way only.
        return Transport.URI if settings.lane == Lane.BATCH else Transport.INLINE
    uris = sample_uris(source, bq, location)
    if task.counts_tokens:
        return await free_transport(settings, task, uris)
    client = open_client(task, settings.project, settings.location)

    async def embed(part: ImagePart) -> HttpResponse:
        # A call like any other, about a hundredth of a cent.
        body = build_probe(task, ModelProfile(task.model), Image("preflight", part.uri), part)
        return await client.send(task.model, body, headers={}, timeout_s=60.0)

    try:
        return await _probe(embed, uris)
    finally:
        await client.close()


async def check_exists(settings: ClassifySettings, task: Task) -> None:
    """Checks that the model is known at the location.

    Raises:
        UserError: It is not.
        SystemicError: Vertex AI cannot be used.
    """
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
            f"model {task.model} is not known at location {settings.location}, or the project "
            f"{settings.project} may not use it",
            fix=f"check --model and --location{where}",
        )
    if answer.code != 200:
        raise ApiError.from_response(f"looking up model {task.model}", answer.code, answer.body, answer.headers)


async def free_transport(
    settings: ClassifySettings, task: Task, uris: list[str], *, timeout_s: float = 60.0
) -> Transport:
    """How images can travel, found out without a paid call: ``countTokens`` reads them.

    Raises:
        SystemicError: Vertex AI cannot be used.
    """
    client = GeminiClient(settings.project, settings.location)

    async def count(part: ImagePart) -> HttpResponse:
        content = {"role": "user", "parts": [image_part(part, "default")]}
        return await client.count_tokens(task.model, {"contents": [content]}, timeout_s=timeout_s)

    try:
        return await _probe(count, uris)
    finally:
        await client.close()


async def ask_once(
    settings: ClassifySettings, task: Task, profile: ModelProfile, image: Image, parts: Mapping[Transport, ImagePart]
) -> dict[Transport, Asked]:
    """Asks about one image as a run would, once for each way that it can travel: paid calls, in no books.

    Args:
        settings: Where the model is.
        task: What is asked.
        profile: Its model.
        image: The image.
        parts: The same as it travels, by the name of the way.
    """
    client = open_client(task, settings.project, settings.location)
    try:
        asked = await asyncio.gather(*(_ask(client, task, profile, image, part) for part in parts.values()))
    finally:
        await client.close()
    return dict(zip(parts, asked, strict=True))


async def _ask(client: ModelClient, task: Task, profile: ModelProfile, image: Image, part: ImagePart) -> Asked:
    body = build_probe(task, profile, image, part)
    try:
        answer = await client.send(task.model, body, headers=lane_headers(Lane.ONLINE), timeout_s=PROBE_TIMEOUT_S)
    except Exception as error:
        return Asked(classify_exception(error))
    if answer.code != 200:
        return Asked(classify_http(answer.code, answer.body, answer.headers), body=answer.body)
    try:
        usage = task_kind(task).parse_response(orjson.loads(answer.body)).usage
    except (ValueError, AttributeError):  # no JSON object
        usage = Usage()
    if not usage.total_tokens:
        usage = estimate_usage(profile, task, 1)
    return Asked(None, cost_usd(profile, Lane.ONLINE, usage))


def build_probe(task: Task, profile: ModelProfile, image: Image, part: ImagePart) -> dict[str, Any]:
    """Return the body of a request about one image that belongs to no run."""
    unit = Unit("preflight", UnitKind.OBSERVATION, "", (image,))
    return task_kind(task).build_request(profile, unit, [part], {})


async def _probe(read: Callable[[ImagePart], Awaitable[HttpResponse]], uris: list[str]) -> Transport:
    """Lets the service read an image by its URI; inline if it may not."""
    for uri in uris:
        try:
            answer = await read(ImagePart(mime_from_name(uri) or "image/jpeg", uri=uri))
        except Exception as error:  # a broken connection says nothing of the image
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


def sample_uris(source: sources.Source, bq: BigQueryClient, location: str) -> list[str]:
    """The URIs of a few images of the source."""
    return [str(row["uri"]) for row in bq.query_rows(sample_query(source, PROBES), location=location)]


def sample_query(source: sources.Source, images: int) -> Query:
    """A query for the URIs of a few images of the source."""
    given = source.table.sql() if source.table else f"(\n{source.query}\n)"
    uri = sources.canonical_sql(source, "uri", "source")
    return Query(f"SELECT {uri} AS uri FROM {given} AS source WHERE {uri} LIKE 'gs://%' LIMIT {int(images)}")
