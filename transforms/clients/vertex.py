"""Gemini over google-genai: one body in, one raw answer out, nothing retried and nothing interpreted.

The request bodies are built and the answers read elsewhere, in one place for every lane. What is left for
the client is the path, the credentials and the connection pool, so the whole body goes through the public
``extra_body`` and the answer is taken from the public ``sdk_http_response``: no pydantic model of the
answer is built, which is most of what a call costs in CPU.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp
import orjson
from google import genai
from google.genai import errors, types

API_VERSION = "v1"


@dataclasses.dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What the service answered.

    Attributes:
        code: HTTP status.
        body: The body as it came, or the error document.
        headers: Lower-case names.
    """

    code: int
    body: bytes | str
    headers: Mapping[str, str]


class ModelClient(Protocol):
    """What the engine needs of a client of a model; belongs to the event loop that made it."""

    async def send(
        self, model: str, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout_s: float
    ) -> HttpAnswer:
        """Sends one request; gives the answer, whatever its status."""

    async def close(self) -> None:
        """Closes the client and its connections."""


class GeminiClient:
    """One google-genai client on one aiohttp session; belongs to the event loop that made it.

    Args:
        project: Project that pays.
        location: ``global``, ``us``, ``eu`` or a region.
        connect_timeout_s: Seconds until a connection must stand.
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
                # One attempt, and no hidden second one after a random sleep on a broken connection.
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
    ) -> HttpAnswer:
        """Sends one ``generateContent`` request.

        Args:
            model: Model id, or a tuned endpoint's resource name.
            body: The REST body.
            headers: Extra headers, such as those of the lane.
            timeout_s: Seconds until the call is given up; the service is told (``X-Server-Timeout``).

        Returns:
            The answer, whatever its status.

        Raises:
            Exception: What the transport or the credentials raise; see :func:`failures.classify_exception`.
        """
        options = types.HttpOptions(extra_body=dict(body), headers=dict(headers) or None, timeout=int(timeout_s * 1000))
        config = _CONFIG.model_copy(update={"http_options": options})
        try:
            # The SDK's own timeout covers the request; this one also a stuck token refresh.
            answer = await asyncio.wait_for(
                self._client.aio.models.generate_content(model=model, contents=".", config=config),
                timeout_s + 5,
            )
        except errors.APIError as error:
            return HttpAnswer(error.code, error_body(error), _headers(error.response))
        http = answer.sdk_http_response
        if http is None:
            raise aiohttp.ClientPayloadError("google-genai returned no HTTP response")
        return HttpAnswer(200, http.body or "", http.headers or {})

    async def count_tokens(self, model: str, body: Mapping[str, Any], *, timeout_s: float = 60.0) -> HttpAnswer:
        """OutcomeCounts the tokens of a request, free of charge; the service reads the images for it.

        Args:
            model: Model id.
            body: The body of a ``generateContent`` request, of which ``countTokens`` takes ``contents``.
            timeout_s: Seconds until the call is given up.
        """
        config = types.CountTokensConfig(http_options=types.HttpOptions(extra_body={"contents": body["contents"]}))
        try:
            await asyncio.wait_for(
                self._client.aio.models.count_tokens(model=model, contents=".", config=config), timeout_s
            )
        except errors.APIError as error:
            return HttpAnswer(error.code, error_body(error), _headers(error.response))
        return HttpAnswer(200, "", {})

    async def model_status(self, model: str, *, timeout_s: float = 30.0) -> HttpAnswer:
        """Asks whether the model exists at this location (``publishers.models.get``)."""
        try:
            await asyncio.wait_for(self._client.aio.models.get(model=model), timeout_s)
        except errors.APIError as error:
            return HttpAnswer(error.code, error_body(error), _headers(error.response))
        return HttpAnswer(200, "", {})

    async def close(self) -> None:
        """Closes the client and its connections."""
        await self._client.aio.aclose()
        await self._session.close()


def open_session(location: str, connect_timeout_s: float) -> aiohttp.ClientSession:
    """A connection pool without a bound of its own, for calls to one location."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
        # Not trust_env: aiohttp would look for a .netrc in a thread at every call.
        proxy=proxy_for(endpoint(location)),
    )


def endpoint(location: str) -> str:
    """The address that google-genai calls for a location, or the one that the environment names instead."""
    if base := os.environ.get("GOOGLE_VERTEX_BASE_URL"):
        return base
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return (
        "https://aiplatform.googleapis.com" if location == "global" else f"https://{location}-aiplatform.googleapis.com"
    )


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address; None for none."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class _Config(types.GenerateContentConfig):
    """A config of one call, with which google-genai takes 0.60 instead of 1.02 ms CPU for the call."""

    def __contains__(self, name: object) -> bool:
        """Nothing is inside, as in a mapping.

        google-genai asks this for every field before it reads the attribute; by default each question walks
        through all fields.
        """
        return False

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> _Config:
        """Itself: google-genai copies every config, with the whole body in it."""
        return self


#: What all calls have in common.
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


def _headers(response: Any) -> dict[str, str]:
    headers = getattr(response, "headers", None) or {}
    return {str(name).lower(): str(value) for name, value in headers.items()}
