"""Routes that only the local cloud has: faults, counters, and how to find and stop the server."""

import asyncio
import os
import secrets
from pathlib import Path

from aiohttp import web

from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError, json_response, read_json


class AdminService:
    """The routes under ``/_local/``.

    ``GET /_local/server`` identifies the server, because its port can belong to another process by now.
    ``POST /_local/stop`` stops it; a web page on this machine must not, so it requires `stop_token`.

    Args:
        directory: State directory, resolved.
        stopped: Set to stop the server.

    Attributes:
        stop_token: Bearer token of the stop request, which only the owner of the state directory can read.
    """

    def __init__(self, directory: Path, stopped: asyncio.Event) -> None:
        self.stop_token = secrets.token_hex(16)
        self._directory = directory
        self._stopped = stopped

    def routes(self, faults: FaultConfig, counters: Counters) -> list[web.RouteDef]:
        """Return the routes."""

        async def get_faults(_: web.Request) -> web.StreamResponse:
            return json_response(faults.snapshot())

        async def put_faults(request: web.Request) -> web.StreamResponse:
            faults.update(await read_json(request))
            return json_response(faults.snapshot())

        async def delete_faults(_: web.Request) -> web.StreamResponse:
            faults.reset()
            return json_response({})

        async def get_counters(_: web.Request) -> web.StreamResponse:
            return json_response(counters.snapshot())

        async def delete_counters(_: web.Request) -> web.StreamResponse:
            counters.reset()
            return json_response({})

        return [
            web.get("/_local/faults", get_faults),
            web.put("/_local/faults", put_faults),
            web.delete("/_local/faults", delete_faults),
            web.get("/_local/counters", get_counters),
            web.delete("/_local/counters", delete_counters),
            web.get("/_local/server", self._show),
            web.post("/_local/stop", self._stop),
        ]

    async def _show(self, _: web.Request) -> web.StreamResponse:
        return json_response({"directory": str(self._directory), "pid": os.getpid()})

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {self.stop_token}".encode()):
            raise ApiError(403, "Only the owner of the state directory may stop the local Google Cloud.")
        self._stopped.set()
        return json_response({})
