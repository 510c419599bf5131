"""Thin async client for generateContent. Returns raw HTTP responses; does not retry or parse.

Requests are built and responses parsed in :mod:`imagebeam.transforms.gemini`, for every lane. google-genai provides
the path, the credentials and the connection pool: the body goes through its public ``extra_body`` and the response
comes from its public ``sdk_http_response``. This avoids the pydantic model of the response, which would be most of the
CPU cost of a call.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import aiohttp
import orjson
from google import genai
from google.genai import errors, types

API_VERSION = "v1"


@dataclasses.dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response of the service.

    Attributes:
        code: HTTP status.
        body: The raw body, or the error document.
        headers: Headers, with lowercase names.
    """

    code: int
    body: bytes | str
    headers: Mapping[str, str]


class ModelClient(Protocol):
    """The model client that the engine uses; use it only on the event loop that created it."""

    async def send(
        self, model: str, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout_s: float
    ) -> HttpResponse:
        """Send one request; return the response, whatever its status."""

    async def close(self) -> None:
        """Close the client and its connections."""


class GeminiClient:
    """One google-genai client on one aiohttp session; use it only on the event loop that created it.

    Args:
        project: Project that is billed.
        location: ``global``, ``us``, ``eu`` or a region.
        connect_timeout_s: Connection timeout in seconds.
    """

    def __init__(self, project: str, location: str, *, connect_timeout_s: float = 30.0) -> None:
        self._session = open_session(location, connect_timeout_s)
        self._client = genai.Client(
            vertexai=True,
            project=project,
            location=location,
            http_options=types.HttpOptions(
                api_version=API_VERSION,
                aiohttp_client=self._session,
                # One attempt: by default, the SDK retries after a random sleep on a broken connection.
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    async def send(
        self,
        model: str,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> HttpResponse:
        """Send one ``generateContent`` request.

        Args:
            model: Model id, or a tuned endpoint's resource name.
            body: The REST body.
            headers: Additional headers, such as those of the lane.
            timeout_s: Timeout in seconds; also sent to the service (``X-Server-Timeout``).

        Returns:
            The response, whatever its status.

        Raises:
            Exception: Error of the transport or the credentials; see :func:`~error_classes.classify_exception`.
        """
        options = types.HttpOptions(extra_body=dict(body), headers=dict(headers) or None, timeout=int(timeout_s * 1000))
        config = _CONFIG.model_copy(update={"http_options": options})
        try:
            # The SDK's timeout covers only the request; this one also covers a stuck token refresh.
            answer = await asyncio.wait_for(
                self._client.aio.models.generate_content(model=model, contents=".", config=config),
                timeout_s + 5,
            )
        except errors.APIError as error:
            return _error_response(error)
        http = answer.sdk_http_response
        if http is None:
            raise aiohttp.ClientPayloadError("google-genai returned no HTTP response")
        return HttpResponse(200, http.body or "", http.headers or {})

    async def count_tokens(self, model: str, body: Mapping[str, Any], *, timeout_s: float = 60.0) -> HttpResponse:
        """Count the tokens of a request, free of charge; the service reads the images for it.

        Args:
            model: Model id.
            body: The body of a ``generateContent`` request; ``contents`` is sent.
            timeout_s: Timeout in seconds.
        """
        config = types.CountTokensConfig(http_options=types.HttpOptions(extra_body={"contents": body["contents"]}))
        return await _status(self._client.aio.models.count_tokens(model=model, contents=".", config=config), timeout_s)

    async def model_status(self, model: str, *, timeout_s: float = 30.0) -> HttpResponse:
        """Get the model at this location (``publishers.models.get``), to check that it exists."""
        return await _status(self._client.aio.models.get(model=model), timeout_s)

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._client.aio.aclose()
        await self._session.close()


def open_session(location: str, connect_timeout_s: float) -> aiohttp.ClientSession:
    """Create an HTTP session with an unlimited connection pool, for calls to one location."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
        # Not trust_env: aiohttp would look for a .netrc file in a thread for every call.
        proxy=proxy_for(endpoint(location)),
    )


def endpoint(location: str) -> str:
    """Return the base URL of a location, or the one in ``GOOGLE_VERTEX_BASE_URL``."""
    if base := os.environ.get("GOOGLE_VERTEX_BASE_URL"):
        return base
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return (
        "https://aiplatform.googleapis.com" if location == "global" else f"https://{location}-aiplatform.googleapis.com"
    )


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment sets for a URL, or None."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class _Config(types.GenerateContentConfig):
    """Config of one call; reduces the CPU time of google-genai from 1.02 to 0.60 ms per call."""

    def __contains__(self, name: object) -> bool:
        """Return False, as for an empty mapping.

        google-genai tests this for every field before it reads the attribute; by default each test iterates over
        all fields.
        """
        return False

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> _Config:
        """Return itself: google-genai copies every config, with the whole body in it."""
        return self


#: Settings of all calls.
_CONFIG = _Config(
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    should_return_http_response=True,
    automatic_continuation=False,
)


def error_body(error: errors.APIError) -> bytes | str:
    """Return the error document that a google-genai exception carries."""
    if isinstance(error.details, dict | list):
        return orjson.dumps(error.details)
    return str(error.message or "")


async def _status(call: Awaitable[Any], timeout_s: float) -> HttpResponse:
    """Wait for a call, and return its status without its content."""
    try:
        await asyncio.wait_for(call, timeout_s)
    except errors.APIError as error:
        return _error_response(error)
    return HttpResponse(200, "", {})


def _error_response(error: errors.APIError) -> HttpResponse:
    headers = getattr(error.response, "headers", None) or {}
    return HttpResponse(
        error.code, error_body(error), {str(name).lower(): str(value) for name, value in headers.items()}
    )
