"""The local Google Cloud as one process with one HTTP port on loopback.

``python -m imagebeam.emulators.server --dir DIR`` prints one line of JSON when it is ready
(``{"url": ..., "pid": ..., "project": ..., "stop_token": ...}``) and exits at the end of its standard input, so that it
never outlives its parent process. With ``--detached`` it runs until it is stopped.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import duckdb
import orjson
from aiohttp import web

from imagebeam.emulators.admin import AdminService
from imagebeam.emulators.analyticshub import AnalyticsHubService
from imagebeam.emulators.batch.api import BatchService
from imagebeam.emulators.bigquery.service import BigQueryService
from imagebeam.emulators.core.access import Access
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError, google_error, not_implemented
from imagebeam.emulators.core.iam import IamService
from imagebeam.emulators.core.tokens import PROJECT, TokenService, write_credentials
from imagebeam.emulators.dataflow.flex_templates import ImageRegistry
from imagebeam.emulators.dataflow.service import DataflowService
from imagebeam.emulators.environment import VERTEX_PATH, write_program
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.storage.service import StorageService
from imagebeam.emulators.vertex.service import VertexService
from imagebeam.transforms.core.errors import ImagebeamError, UserError

LOG: Final = logging.getLogger(__name__)

#: Number of threads for blocking work: files, DuckDB, images.
THREADS: Final = 16
#: Maximum size of a request body in bytes. Chunked uploads can be larger in total.
BODY_LIMIT: Final = 512 * 1024 * 1024

#: Seconds to wait for another server to release the directory, since its parent may just have been killed.
LOCK_TIMEOUT: Final = 2.0

#: Names of this host in requests. A web page could send others, or reach the port under a name of its own.
_HOSTS: Final = ("127.0.0.1", "localhost")

COUNTERS: Final = web.AppKey("counters", Counters)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(directory: Path, url: str, admin: AdminService, seed: int = 0) -> web.Application:
    """Build the aiohttp application of the local cloud.

    Args:
        directory: State directory.
        url: URL of the server, for the token URI of the key.
        admin: The routes that only the local cloud has.
        seed: Random seed.
    """
    faults, counters = FaultConfig(), Counters()
    objects = ObjectStore(directory)
    public_key = write_credentials(directory / "credentials.json", url)
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_errors])
    app[COUNTERS] = counters
    app.add_routes(StorageService(objects, faults, counters).routes())
    bigquery = BigQueryService(directory / "bigquery.duckdb", objects, PROJECT, faults, counters, seed)
    app.add_routes(bigquery.routes())
    app.add_routes(AnalyticsHubService(bigquery.catalog, faults, counters).routes())
    app.add_routes(TokenService(public_key, faults, counters).routes())
    access = Access(faults)
    images = ImageRegistry(directory / "images.json", PROJECT)
    app.add_routes(DataflowService(objects, images, PROJECT, access, counters).routes())
    app.add_routes(IamService(PROJECT, access, counters).routes())
    vertex = VertexService(objects, PROJECT, seed, faults, counters)
    batch = BatchService(objects, bigquery.catalog, vertex.images, vertex.descriptors, seed, faults, counters)
    routes = [*vertex.routes(), *batch.routes()]
    app.add_routes(routes)
    app.add_routes(web.route(one.method, VERTEX_PATH + one.path, one.handler, **one.kwargs) for one in routes)
    app.add_routes(admin.routes(faults, counters))
    app.add_routes([web.route("*", "/{path:.*}", _unknown)])

    async def close(_: web.Application) -> None:
        await asyncio.to_thread(bigquery.close)

    app.on_cleanup.append(close)
    return app


async def serve(directory: Path, port: int, seed: int, *, detached: bool = False) -> None:
    """Serve until SIGTERM, SIGINT, a stop request or the end of standard input.

    Args:
        directory: State directory.
        port: Port on 127.0.0.1; 0 for a free one.
        seed: Random seed.
        detached: Whether to ignore the end of standard input.

    Raises:
        OSError: The port is in use or the directory is not writable.
        UserError: Another server uses the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / ".lock").open("w")
    limit = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > limit:
                raise UserError(f"another local cloud is running in {directory}") from None
            await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="local-cloud"))
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    stopped = asyncio.Event()
    admin = AdminService(directory.resolve(), stopped)
    runner = web.AppRunner(build_app(directory, url, admin, seed), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    write_program(directory)
    state = orjson.dumps({"url": url, "pid": os.getpid(), "project": PROJECT, "stop_token": admin.stop_token})
    state_file = directory / "local.json"
    state_file.touch(mode=0o600)
    state_file.write_bytes(state)
    print(state.decode(), flush=True)

    def watch_parent() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has already ended
            loop.call_soon_threadsafe(stopped.set)

    if not detached:
        threading.Thread(target=watch_parent, daemon=True, name="parent-watch").start()
    try:
        await stopped.wait()
    finally:
        state_file.unlink(missing_ok=True)
        await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Run the server; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m imagebeam.emulators.server", allow_abbrev=False)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detached", action="store_true")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="local cloud: %(message)s")
    try:
        asyncio.run(serve(arguments.dir, arguments.port, arguments.seed, detached=arguments.detached))
    except (OSError, ImagebeamError, duckdb.Error) as problem:
        print(f"The local cloud cannot start: {problem}", file=sys.stderr)
        return 2
    return 0


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Convert every exception to a response in Google's error format."""
    if request.method == "CONNECT":
        counters = request.app[COUNTERS]
        counters.add("connect_refused")
        LOG.warning("rejected a connection to %s: calls must not leave the local cloud", request.raw_path)
        return google_error(403, None, f"The local Google Cloud does not connect to other hosts: {request.raw_path}")
    if not _is_local(request):
        return google_error(403, None, "The local Google Cloud answers requests from this machine's own programs only.")
    try:
        return await handler(request)
    except ApiError as problem:
        return problem.response()
    except web.HTTPRequestEntityTooLarge:
        return google_error(413, "INVALID_ARGUMENT", f"The request is larger than {BODY_LIMIT} bytes.")
    except web.HTTPException:
        raise
    except Exception as problem:  # a 501, so that clients do not retry and hide a bug of the emulator
        LOG.exception("%s %s failed", request.method, request.raw_path)
        return google_error(501, None, f"The local Google Cloud failed: {type(problem).__name__}: {problem}")


def _is_local(request: web.Request) -> bool:
    """Return whether a request is not that of a web page: neither from another origin nor under another host name."""
    origin = request.headers.get("Origin")
    hosts = [request.host, *([] if origin is None else [origin.partition("://")[2]])]
    return all(host.partition(":")[0] in _HOSTS for host in hosts)


async def _unknown(request: web.Request) -> web.StreamResponse:
    return not_implemented(f"{request.method} {request.path}")


if __name__ == "__main__":
    sys.exit(main())
