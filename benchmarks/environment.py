"""The environment of a benchmark: a local Google Cloud for this process and its children."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imagebeam.emulators.cloud import LocalCloud

#: Prefixes of variables that could direct a benchmark to real credentials.
CREDENTIAL_PREFIXES = ("GOOGLE_", "CLOUDSDK_")


@contextlib.contextmanager
def local_cloud(directory: Path | None = None) -> Iterator[LocalCloud]:
    """Start a local cloud, direct the Google clients to it, and restore the environment at the end.

    Args:
        directory: State directory. Default: a temporary one.
    """
    with LocalCloud(directory) as cloud:
        before = dict(os.environ)
        for name in before:
            if name.startswith(CREDENTIAL_PREFIXES):
                del os.environ[name]
        os.environ.update(cloud.environment)
        try:
            yield cloud
        finally:
            os.environ.clear()
            os.environ.update(before)
