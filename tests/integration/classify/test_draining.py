"""Draining on signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from imagebeam.pipeline.run.draining import SIGNALS, draining_on_signals

NUMBERS = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
SCRIPT = """
import signal, time
from imagebeam.pipeline.run.draining import draining_on_signals
print("ready", flush=True)
with draining_on_signals(lambda reason: "waiting for calls"):
    for _ in range(600):
        time.sleep(0.1)
        print("working", flush=True)
"""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, also in the processes of the tests
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@NUMBERS
def test_drains_on_the_first_signal(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before, reasons = signal.getsignal(number), []

    def drain(reason: str) -> str:
        reasons.append(reason)
        return "waiting for calls"

    with draining_on_signals(drain):
        os.kill(os.getpid(), number)
        assert reasons == [f"interrupted: {number.name}"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "a second Ctrl-C ends"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err == f"\n{number.name}: waiting for calls; repeat to stop at once\n"


@NUMBERS
def test_ends_at_once_when_there_is_nothing_to_wait_for(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), draining_on_signals(lambda _reason: None):
        os.kill(os.getpid(), number)


@NUMBERS
def test_ends_at_once_on_the_second_signal(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdout.readline()
        process.send_signal(number)
        assert process.stderr.readline() == b"\n"
        assert b"waiting for calls" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait() in (-number, 130)


def test_ignores_a_hangup_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with draining_on_signals(lambda _reason: pytest.fail("must not drain")):
        os.kill(os.getpid(), signal.SIGHUP)


def test_does_nothing_outside_the_main_thread() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with draining_on_signals(lambda _reason: None):
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_drains_when_the_terminal_hangs_up() -> None:
    script = """
import os, signal, sys, time
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.run.draining import draining_on_signals
reasons, console = [], Console()
def drain(reason):
    reasons.append(reason)
    return "waiting for calls"
with draining_on_signals(drain):
    console.status("ready")
    while not reasons:
        time.sleep(0.05)
console.status("drained")
console.print("result")
console.print_table(["a"], [["b"]])
os._exit(42 if reasons == ["interrupted: SIGHUP"] else 1)
"""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    assert b"ready" in os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 42
