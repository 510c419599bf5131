"""The local Google Cloud as a context manager: for tests, the demo and rehearsals.

::

    with LocalCloud() as cloud:
        os.environ.update(cloud.environment)
            ...  # unmodified Google clients now connect to the local cloud
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from imagebeam.emulators.environment import environment_of

#: Timeout of the start in seconds.
START_LIMIT: Final = 60.0
#: Files in the working directory must not shadow modules. The malloc settings return memory that DuckDB frees to the
#: system; by default glibc keeps growing heaps per thread.
_ENVIRONMENT: Final = {
    "PYTHONSAFEPATH": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


class LocalCloud:
    """Runs the local Google Cloud in a separate process.

    Several can run at once, each with its own directory and port. The process exits when its parent exits, even if
    the parent is killed.

    Args:
        directory: State directory. Default: a temporary one that is removed at the end.
        seed: Random seed.
        port: Port on 127.0.0.1; 0 for a free one.
        log: File for the error output of a server that keeps running when this process exits; requires a directory.
            None for a server that exits with this process.

    Attributes:
        url: ``http://127.0.0.1:<port>``.
        project: ID of its only project.
        directory: State directory: ``storage/<bucket>/...``, ``bigquery.duckdb``, ``credentials.json``.
        environment: Environment variables that direct Google clients to this cloud.
    """

    def __init__(self, directory: Path | None = None, *, seed: int = 0, port: int = 0, log: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="imagebeam-cloud-") if directory is None else None
        self.directory = Path(self._temporary.name if self._temporary else directory or ".").absolute()
        self.url = ""
        self.project = ""
        self.environment: dict[str, str] = {}
        self._seed = seed
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._detached = log is not None
        self._errors: IO[bytes] = tempfile.TemporaryFile() if log is None else log.open("w+b")  # noqa: SIM115  (closed in stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            RuntimeError: The server did not start; with its error output.
        """
        command = [sys.executable, "-m", "imagebeam.emulators.server", "--dir", str(self.directory)]
        command += ["--port", str(self._port), "--seed", str(self._seed), *(["--detached"] if self._detached else [])]
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            # A pipe is closed when this process exits, which stops the server.
            stdin=subprocess.DEVNULL if self._detached else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # Ctrl-C must not stop the server before this process
        )
        line = self._first_line(self._process)
        if not line:
            output = self._error_output()
            self.stop()
            raise RuntimeError(f"The local Google Cloud did not start: {output or 'no error output'}")
        state = json.loads(line)
        self.url, self.project = state["url"], state["project"]
        self.environment = environment_of(self.url, self.project, self.directory)

    def stop(self) -> None:
        """Stop the server and remove its temporary directory, if any."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            else:
                process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._errors.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def wait(self) -> None:
        """Block until the server exits, for example because of ``imagebeam local down``.

        Raises:
            RuntimeError: The server failed; with its error output.
        """
        if self._process is not None and self._process.wait():
            raise RuntimeError(f"The local Google Cloud exited: {self._error_output() or 'no error output'}")

    def faults(self, **settings: Any) -> None:
        """Set sections of the fault configuration, for example ``faults(token={"fail": True})``.

        Raises:
            ValueError: Unknown section or setting.
        """
        self._admin("PUT", "faults", settings)

    def reset(self) -> None:
        """Remove all faults and batch jobs, and reset the counters."""
        self._admin("DELETE", "batch")
        self._admin("DELETE", "faults")
        self._admin("DELETE", "counters")

    def batch_jobs(self) -> list[dict[str, Any]]:
        """Return the resources of all batch jobs with ``rowsRun``, newest first."""
        jobs: list[dict[str, Any]] = self._admin("GET", "batch")["jobs"]
        return jobs

    def counters(self) -> dict[str, Any]:
        """Return the counters since the start or the last `reset`."""
        return self._admin("GET", "counters")

    def _admin(self, method: str, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_local/{what}", data=data, method=method)  # noqa: S310
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=30) as response:
                answer: dict[str, Any] = json.loads(response.read())
        except urllib.request.HTTPError as problem:
            with problem:
                raise ValueError(json.loads(problem.read())["error"]["message"]) from problem
        return answer

    def _first_line(self, process: "subprocess.Popen[bytes]") -> bytes:
        """Return the server's first line; empty if it exited or timed out."""
        assert process.stdout is not None  # noqa: S101  (it is a pipe)
        line = b""
        limit = time.monotonic() + START_LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n") and selector.select(max(limit - time.monotonic(), 0)):
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    return b""
                line += piece
        return line if line.endswith(b"\n") else b""

    def _error_output(self) -> str:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()
