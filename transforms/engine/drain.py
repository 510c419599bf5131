"""The draining state of an engine."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Drain:
    """Whether an engine still sends calls. Once draining, it sends nothing new and records what is in flight.

    Args:
        on_start: Called once, when draining starts.

    Attributes:
        reason: Why the engine drains, such as ``budget: …``; None while it does not. The first reason stays.
    """

    def __init__(self, on_start: Callable[[], None]) -> None:
        self.reason: str | None = None
        self._on_start = on_start

    @property
    def started(self) -> bool:
        """True once nothing new may be sent."""
        return self.reason is not None

    def start(self, reason: str) -> None:
        """Start draining; does nothing if it has started."""
        if self.reason is None:
            self.reason = reason
            _log.warning("draining: %s", reason)
            self._on_start()
