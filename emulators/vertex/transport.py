"""Simulated latency, HTTP errors and broken connections of the local Vertex AI."""

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web

from imagebeam.emulators.core.http import JSON_TYPE, ApiError
from imagebeam.emulators.vertex.faults import MESSAGES, Rule

#: Response of a proxy instead of JSON.
_HTML_PAGE: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


async def simulate_latency(request: web.Request, seconds: float, rule: Rule | None) -> None:
    """Wait for the latency of an answer, at most until the caller's timeout.

    Args:
        request: The request, with the timeout in its header ``X-Server-Timeout``.
        seconds: Latency in seconds.
        rule: The rule in force, if any; a ``slow`` rule adds to the latency.

    Raises:
        ApiError: 504 if the timeout is exceeded.
    """
    if rule is not None and rule.action == "slow":
        seconds += float(rule.settings["seconds"])
    limit = _server_timeout(request)
    if limit is not None and seconds > limit:
        await asyncio.sleep(limit)
        raise ApiError(504, MESSAGES[504])
    if seconds > 0:
        await asyncio.sleep(seconds)


def http_fault(rule: Rule | None) -> web.Response | None:
    """Return the error response of an ``http`` rule, or None for any other rule or none."""
    if rule is None or rule.action != "http":
        return None
    if rule.settings["code"] == 502 and "message" not in rule.settings:
        return web.Response(body=_HTML_PAGE, status=502, content_type="text/html")  # as a proxy responds
    return rule.error().response()


async def corrupt_response(request: web.Request, rule: Rule | None, body: dict[str, Any]) -> web.StreamResponse | None:
    """Return the response of a ``garbage`` or ``reset`` rule, or None for any other rule or none."""
    if rule is not None and rule.action == "garbage":
        return web.Response(body=_HTML_PAGE, status=200, content_type=JSON_TYPE)
    if rule is None or rule.action != "reset":
        return None
    data = orjson.dumps(body)
    response = web.StreamResponse(headers={"Content-Type": JSON_TYPE, "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


def _server_timeout(request: web.Request) -> float | None:
    try:
        return float(request.headers["X-Server-Timeout"])
    except (KeyError, ValueError):
        return None
