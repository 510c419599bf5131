"""What every method of the local Vertex AI needs of a connection: how long it takes, how it breaks."""

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web

from imagebeam.emulators.core.http import JSON_TYPE, ApiError
from imagebeam.emulators.vertex.faults import MESSAGES, Rule

#: What a proxy sends where JSON was expected.
_PAGE: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


async def take_time(request: web.Request, seconds: float, rule: Rule | None) -> None:
    """Take as long as an answer takes, but not longer than the caller wants to wait.

    Args:
        request: Its header ``X-Server-Timeout`` says how long that is.
        seconds: What the answer takes.
        rule: A rule that makes it slower, or any other.

    Raises:
        ApiError: 504.
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
    """Return the error of an ``http`` rule; None for any other and for none."""
    if rule is None or rule.action != "http":
        return None
    if rule.settings["code"] == 502 and "message" not in rule.settings:
        return web.Response(body=_PAGE, status=502, content_type="text/html")  # it comes from a proxy
    return rule.error().response()


async def broken(request: web.Request, rule: Rule | None, body: dict[str, Any]) -> web.StreamResponse | None:
    """Return what a ``garbage`` or ``reset`` rule makes of an answer; None for any other and for none."""
    if rule is not None and rule.action == "garbage":
        return web.Response(body=_PAGE, status=200, content_type=JSON_TYPE)
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
