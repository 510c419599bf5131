"""Standard streams whose reader may close them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any


class _SafeStream:
    """A stream whose reader (head, less) may close it: what is written later is lost, the exit code is not."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._survive():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._survive():
            self._stream.flush()

    @contextlib.contextmanager
    def _survive(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # The reader is gone: a closed pipe, or a terminal that hung up. Python would fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def safe_stream(stream: IO[str]) -> IO[str]:
    """Return a stream that discards what is written after its reader has closed it."""
    safe: Any = _SafeStream(stream)
    return stream if isinstance(stream, _SafeStream) else safe


@contextlib.contextmanager
def safe_standard_streams() -> Iterator[None]:
    """Make standard output and standard error safe, and flush the former at the end."""
    out, errors = safe_stream(sys.stdout), safe_stream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            yield
        finally:
            out.flush()
