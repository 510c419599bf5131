"""The console: what goes where, and text from data that must not reach a terminal as anything but text."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Any

import pytest

from imagebeam.pipeline.console import progress
from imagebeam.pipeline.console.console import Console, format_table
from imagebeam.pipeline.console.progress import Progress
from imagebeam.pipeline.console.text import printable
from imagebeam.transforms.core.counts import OutcomeCounts

HOSTILE = "[bold red]x[/] :smile: \x1b[31m\x9b1m\r\x07\u202e\ud800 end"
SHOWN = "[bold red]x[/] :smile: \ufffd[31m\ufffd1m\ufffd\ufffd\ufffd\ufffd end"
ROWS: list[list[Any]] = [["o1", 0.12345, None, "gs://bucket/" + "long/" * 40 + "1.jpg"], ["o22", 1.0, 7, HOSTILE]]
HEADER = ["unit_id", "distance", "rank", "uri"]


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x9b", "\r", "\x08", "\u2028", "\u202e", "\udcff"])
def test_replaces_what_a_terminal_would_interpret(character: str) -> None:
    assert printable(f"a{character}b") == "a\ufffdb"


@pytest.mark.parametrize("text", ["Zürich 東京 👩‍🔧", "a\tb\nc", "[link]"])
def test_keeps_printable_text(text: str) -> None:
    assert printable(text) == text


def test_results_and_status_lines_use_different_streams(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.status(f"a {HOSTILE}")
    console.warn("careful")
    console.print(f"b {HOSTILE}", "c\td")
    console.print_table(HEADER, ROWS)
    out, err = capsys.readouterr()
    assert err == f"a {SHOWN}\nwarning: careful\n"
    assert out.splitlines() == [f"b {SHOWN}", "c\td", *format_table(HEADER, ROWS)]
    assert SHOWN in out


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        (Console(quiet=True), ""),
        (Console(json=True), "warning: careful\n"),
        (Console(quiet=True, json=True), ""),
    ],
)
def test_quiet_and_json_hide_status_lines(console: Console, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.status("working")
    console.warn("careful")
    console.print_json({"text": HOSTILE, "cost": Decimal("1.50")})
    out, err = capsys.readouterr()
    assert err == expected
    assert out.isascii()
    assert json.loads(out) == {"text": HOSTILE, "cost": "1.50"}


def test_a_table_for_programs_has_one_line_per_row() -> None:
    lines = format_table(HEADER, ROWS)
    assert [line.split()[0] for line in lines] == ["unit_id", "o1", "o22"]
    assert lines[1].split()[1:] == ["0.123", "-", ROWS[0][3]]
    assert {line.index("gs://") for line in lines if "gs://" in line} == {lines[0].index("uri")}


def test_records_without_rows_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Console().print_records([])
    Console().print()
    assert capsys.readouterr().out == ""


class Engine:
    """An engine that finishes a unit per look."""

    def __init__(self) -> None:
        self.finished = 0

    def progress(self) -> tuple[OutcomeCounts, int, float]:
        self.finished += 1
        return OutcomeCounts(read=50, ok=self.finished, calls=self.finished), 8, 1.0


@pytest.fixture(name="engine")
def _engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(progress, "live_engines", lambda: [engine])
    monkeypatch.setattr(progress, "SAMPLE_INTERVAL_S", 0.01)
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.05)
    return engine


def wait_for_units(engine: Engine, units: int) -> None:
    while engine.finished < units:
        time.sleep(0.01)


def test_progress_in_a_log_is_lines_with_timestamps(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(300, Console()):
        wait_for_units(engine, 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    counts = r"\d+/300 · [\d.]+/s · 0 × 429 · 0 failed · \$0\.0000 · 8 in flight · .+ left"
    shape = rf"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ {counts}"
    assert all(re.fullmatch(shape, line) for line in lines), lines
    assert float(lines[-1].split(" · ")[1].removesuffix("/s")) > 0, "the rate is measured"


def test_progress_in_a_log_keeps_the_interval(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 3600)
    with Progress(300, Console()):
        wait_for_units(engine, 20)
    assert len(capsys.readouterr().err.splitlines()) <= 1


@pytest.mark.parametrize("console", [Console(quiet=True), Console(json=True)])
def test_progress_is_hidden_by_quiet_and_json(
    console: Console, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(300, console):
        time.sleep(0.2)
    assert engine.finished == 0
    assert capsys.readouterr().err == ""
