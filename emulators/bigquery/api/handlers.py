"""Handlers of REST methods: blocking functions that run in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import duckdb
from aiohttp import web

from imagebeam.emulators.bigquery.access import AccessControl, Permission
from imagebeam.emulators.bigquery.api.requests import check_parameters
from imagebeam.emulators.bigquery.dialect.errors import translate_error
from imagebeam.emulators.core.http import json_response, read_json

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Handles one method: gets the request and its JSON body, returns the JSON response, or None for 204.
Method = Callable[[web.Request, dict[str, Any]], Any]


class HandlerFactory(Protocol):
    """Makes a handler of a method."""

    def __call__(self, method: Method, *parameters: str, permission: Permission | None = None) -> Handler:
        """Return the handler.

        Args:
            method: Function that may block.
            parameters: Query parameters that it implements.
            permission: Permission that it requires.
        """


def handler_factory(access: AccessControl) -> HandlerFactory:
    """Return the factory of handlers that check parameters and permissions before the method runs."""

    def make_handler(method: Method, *parameters: str, permission: Permission | None = None) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            check_parameters(request.query, parameters)
            body = await read_json(request)
            access.check_call(request, permission)
            response = await run_in_thread(method, request, body)
            return json_response(response) if response is not None else web.Response(status=204)

        return handle

    return make_handler


async def run_in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a blocking function in a thread; translate DuckDB errors to those of BigQuery."""

    def run() -> Any:
        try:
            return function(*arguments)
        except duckdb.Error as problem:
            raise translate_error(problem, "") from problem

    return await asyncio.to_thread(run)
