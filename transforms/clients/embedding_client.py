"""Thin async client for embedContent and predict. Returns raw HTTP responses; does not retry or parse."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import google.auth
import google.auth.transport.requests
import orjson

from imagebeam.transforms.clients.credentials import SCOPES
from imagebeam.transforms.clients.vertex import (
    API_VERSION,
    GeminiClient,
    HttpResponse,
    ModelClient,
    endpoint,
    open_session,
)
from imagebeam.transforms.tasks.embedding import find_embedding_model
from imagebeam.transforms.tasks.task import Task


class EmbeddingClient:
    """Client of embedding models on one aiohttp session; use it only on the event loop that created it.

    Args:
        project: Project that is billed.
        location: ``global``, ``us``, ``eu`` or a region.
        connect_timeout_s: Connection timeout in seconds.
    """

    def __init__(self, project: str, location: str, *, connect_timeout_s: float = 30.0) -> None:
        self._base = (
            f"{endpoint(location).rstrip('/')}/{API_VERSION}/projects/{project}/locations/{location}"
            "/publishers/google/models"
        )
        self._session = open_session(location, connect_timeout_s)
        self._credentials: Any = None
        self._refreshing = asyncio.Lock()

    async def send(
        self, model: str, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout_s: float
    ) -> HttpResponse:
        """Send one ``embedContent`` or ``predict`` request; see :meth:`~vertex.GeminiClient.send`."""
        # The session's timeout covers only the request; this one also covers a stuck token refresh.
        async with asyncio.timeout(timeout_s + 5):
            sent = {
                **await self._authorization(),
                **headers,
                "Content-Type": "application/json",
                "X-Server-Timeout": str(max(1, round(timeout_s))),
            }
            async with self._session.post(
                f"{self._base}/{model}:{find_embedding_model(model).method}",
                data=orjson.dumps(body),
                headers=sent,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                content = await answer.read()
                return HttpResponse(
                    answer.status, content, {name.lower(): value for name, value in answer.headers.items()}
                )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _authorization(self) -> dict[str, str]:
        if self._credentials is None or not self._credentials.valid:
            async with self._refreshing:
                await asyncio.to_thread(self._refresh)
        headers: dict[str, str] = {}
        self._credentials.apply(headers)
        return headers

    def _refresh(self) -> None:
        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=SCOPES)
        if not self._credentials.valid:  # unless another call has refreshed them meanwhile
            self._credentials.refresh(google.auth.transport.requests.Request())


def open_client(task: Task, project: str, location: str) -> ModelClient:
    """Create the client for the calls of a task."""
    return (GeminiClient if task.method == "generateContent" else EmbeddingClient)(project, location)
