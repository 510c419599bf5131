"""Draining on signals: the first one stops new work, the second one ends the process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from imagebeam.pipeline.console.console import Console

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def draining_on_signals(drain: Callable[[str], str | None]) -> Iterator[None]:
    """Drain a run on INT, TERM or HUP; a second signal has its usual effect, and ends the process at once.

    A hangup that is ignored, as under ``nohup``, stays ignored. Outside the main thread, where Python cannot handle
    signals, nothing changes.

    Args:
        drain: Called on the first signal with the reason to stop, such as ``interrupted: SIGINT``. It must return
            quickly. Returns what the run waits for, to be printed, or None if there is nothing to wait for.

    Raises:
        KeyboardInterrupt: There is nothing to wait for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for other in previous.keys() - {signal.SIGINT}:
            signal.signal(other, signal.SIG_DFL)
        name = signal.Signals(number).name
        waiting_for = drain(f"interrupted: {name}")
        if waiting_for is None:
            raise KeyboardInterrupt
        Console().status(f"\n{name}: {waiting_for}; repeat to stop at once")

    handled = [number for number in SIGNALS if number is signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
