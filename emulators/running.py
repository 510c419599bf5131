"""Find and stop the local cloud that runs in a state directory."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from imagebeam.emulators.environment import environment_of

#: Timeout of a request to the server in seconds.
_TIMEOUT: Final = 5.0
#: Seconds to wait for a server to exit.
STOP_LIMIT: Final = 30.0
#: Seconds between two progress reports.
_REPORT_INTERVAL: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class RunningCloud:
    """A local cloud that answers.

    Attributes:
        url: ``http://127.0.0.1:<port>``.
        project: ID of its only project.
        directory: State directory, as an absolute path.
        stop_token: Token of the stop request.
    """

    url: str
    project: str
    directory: Path
    stop_token: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that direct Google clients to this cloud."""
        return environment_of(self.url, self.project, self.directory)

    def stop(self, report: Callable[[float], None]) -> bool:
        """Ask the server to stop, and wait until it has exited.

        Args:
            report: Called every second with the seconds that have passed.

        Returns:
            Whether it has exited within `STOP_LIMIT`.
        """
        request = urllib.request.Request(  # noqa: S310  (a URL of ours)
            f"{self.url}/_local/stop", data=b"{}", headers={"Authorization": f"Bearer {self.stop_token}"}, method="POST"
        )
        _send(request)
        started = reported = time.monotonic()
        while _is_locked(self.directory):
            now = time.monotonic()
            if now - started > STOP_LIMIT:
                return False
            if now - reported >= _REPORT_INTERVAL:
                reported = now
                report(now - started)
            time.sleep(0.05)
        return True


def find_running(directory: Path) -> RunningCloud | None:
    """Return the local cloud that runs in a directory, or None.

    ``local.json`` can be stale and its port can belong to another process, so the server itself must name the
    directory.
    """
    try:
        state = json.loads((directory / "local.json").read_bytes())
        found = RunningCloud(state["url"], state["project"], directory.absolute(), state["stop_token"])
        server = _send(urllib.request.Request(f"{found.url}/_local/server"))  # noqa: S310  (a URL of ours)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if server.get("directory") == str(directory.resolve()) else None


def _send(request: urllib.request.Request) -> dict[str, Any]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=_TIMEOUT) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def _is_locked(directory: Path) -> bool:
    """Return whether a server process holds the lock of the directory, which it does until it exits."""
    try:
        with (directory / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
