"""A local Google Cloud around a benchmark's own process and those that it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imagebeam.emulators.cloud import LocalCloud

#: Beginnings of variables through which somebody's own credentials could reach into a benchmark.
AMBIENT = ("GOOGLE_", "CLOUDSDK_")


@contextlib.contextmanager
def local_cloud(directory: Path | None = None) -> Iterator[LocalCloud]:
    """Starts one, points the Google clients at it, and puts everything back.

    Args:
        directory: Its state directory; by default a temporary one.
    """
    with LocalCloud(directory) as cloud:
        before = dict(os.environ)
        for name in before:
            if name.startswith(AMBIENT):
                del os.environ[name]
        os.environ.update(cloud.environment)
        try:
            yield cloud
        finally:
            os.environ.clear()
            os.environ.update(before)
