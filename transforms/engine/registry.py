"""The engines of this process, one per run."""

from __future__ import annotations

import os
import threading

from imagebeam.transforms.engine.engine import Engine
from imagebeam.transforms.engine.settings import EngineSettings

# The process id is part of the key: a forked worker must not use its parent's engine, whose thread it lacks.
_engines: dict[tuple[int, str], Engine] = {}
_lock = threading.Lock()


def get_engine(settings: EngineSettings) -> Engine:
    """Return the engine of a run in this process; the first call starts it."""
    key = (os.getpid(), settings.run_id)
    with _lock:
        if key not in _engines:
            _engines[key] = Engine(settings)
        return _engines[key]


def live_engines() -> list[Engine]:
    """Return the engines of this process."""
    with _lock:
        return [engine for (pid, _), engine in _engines.items() if pid == os.getpid()]


def close_engine(run_id: str) -> None:
    """Close the engine of a run in this process, if there is one."""
    with _lock:
        engine = _engines.pop((os.getpid(), run_id), None)
    if engine is not None:
        engine.close()
