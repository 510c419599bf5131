"""Whether the model answers here, and may read the images: asked before anything is paid."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

from imagebeam.pipeline.config import ClassifySettings
from imagebeam.transforms import sources
from imagebeam.transforms.embedding_calls import build_embedding_request
from imagebeam.transforms.embedding_client import EmbeddingClient
from imagebeam.transforms.embeddings import EmbedTask
from imagebeam.transforms.errors import SystemicError, UserError
from imagebeam.transforms.failures import Kind, classify_exception, classify_http
from imagebeam.transforms.images import mime_from_name
from imagebeam.transforms.queries import Query
from imagebeam.transforms.requests import ImagePart, image_part
from imagebeam.transforms.task import Task
from imagebeam.transforms.vertex import GeminiClient, HttpAnswer
from imagebeam.transforms.warehouse import Warehouse

PROBES = 3
_log = logging.getLogger(__name__)


async def check_model(
    settings: ClassifySettings,
    task: Task,
    source: sources.Source,
    warehouse: Warehouse,
    location: str,
    *,
    due: int,
) -> Literal["uri", "inline"]:
    """Checks that the model answers here, and settles how images travel.

    Raises:
        UserError: The model is not known at this location.
        SystemicError: Vertex AI cannot be used.
    """
    client = GeminiClient(settings.project, settings.location)
    try:
        await _model_exists(client, settings, task)
        if settings.transport == "inline" or task.image.changes_images:
            return "inline"
        if settings.transport == "uri" or not due:
            return "uri"
        if not isinstance(task, EmbedTask):
            return await _probe(functools.partial(_count_tokens, client, task), source, warehouse, location)
        if settings.max_cost_usd is not None or settings.max_calls is not None:
            # Embedding models have no call that is free, and every call counts; a batch job knows one way only.
            return "uri" if settings.lane == "batch" else "inline"
        embedding = EmbeddingClient(settings.project, settings.location)
        try:
            return await _probe(functools.partial(_embed, embedding, task), source, warehouse, location)
        finally:
            await embedding.close()
    finally:
        await client.close()


async def _model_exists(client: GeminiClient, settings: ClassifySettings, task: Task) -> None:
    try:
        answer = await client.model_status(task.model)
    except Exception as error:
        failure = classify_exception(error)
        raise SystemicError(f"asking for model {task.model}: {failure.reason}: {failure.message}") from None
    if answer.code == 404:
        where = "" if isinstance(task, EmbedTask) else f" (imagebeam tasks show {task.name})"
        raise UserError(
            f"model {task.model} is not known at location {settings.location}, or the project "
            f"{settings.project} may not use it; check --model and --location{where}"
        )
    if answer.code != 200:
        raise _refused(answer, f"asking for model {task.model}")


async def _count_tokens(client: GeminiClient, task: Task, part: ImagePart) -> HttpAnswer:
    """Lets Gemini read an image, free of charge."""
    content = {"role": "user", "parts": [image_part(part, "default")]}
    return await client.count_tokens(task.model, {"contents": [content]})


async def _embed(client: EmbeddingClient, task: EmbedTask, part: ImagePart) -> HttpAnswer:
    """Lets an embedding model read an image: a call like any other, about a hundredth of a cent."""
    return await client.send(task.model, build_embedding_request(task, [part]), headers={}, timeout_s=60.0)


async def _probe(
    read: Callable[[ImagePart], Awaitable[HttpAnswer]], source: sources.Source, warehouse: Warehouse, location: str
) -> Literal["uri", "inline"]:
    """Lets the service read an image by its URI; inline if it may not."""
    for row in warehouse.small_query(sample_query(source, PROBES), location=location):
        try:
            answer = await read(ImagePart(mime_from_name(row["uri"]) or "image/jpeg", uri=row["uri"]))
        except Exception as error:  # a broken connection says nothing of the image
            _log.info("reading %s: %s", row["uri"], error)
            continue
        if answer.code == 200:
            return "uri"
        failure = classify_http(answer.code, answer.body, answer.headers)
        if failure.kind is Kind.ROW and failure.reason == "FORBIDDEN":
            return "inline"
        if failure.kind is Kind.FATAL:
            raise _refused(answer, "reading an image")
    return "uri"


def sample_query(source: sources.Source, images: int) -> Query:
    """A query for the URIs of a few images of the source."""
    given = source.table.sql() if source.table else f"(\n{source.query}\n)"
    uri = sources.canonical_sql(source, "uri", "source")
    return Query(f"SELECT {uri} AS uri FROM {given} AS source WHERE {uri} LIKE 'gs://%' LIMIT {int(images)}")


def _refused(answer: HttpAnswer, doing: str) -> SystemicError:
    failure = classify_http(answer.code, answer.body, answer.headers)
    return SystemicError(f"{doing}: {failure.reason}: {failure.message}")
