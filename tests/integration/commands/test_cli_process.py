"""The command line in its own process: exit codes, closed pipes, a terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

IMAGEBEAM = str(Path(sys.executable).parent / "imagebeam")
URI = "gs://bucket/" + "long/" * 40 + "1.jpg"
ROWS = [["o1", 0.12345, URI], ["o\x1b[31m22", 1.0, "x\x9b1m"]]
TABLE = f"""
from imagebeam.pipeline.console.console import Console
Console().print_table(["unit_id", "distance", "uri"], {ROWS!r})
"""


def process(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GOOGLE_")}
    return subprocess.run(
        [IMAGEBEAM, *argv], cwd=cwd, env=environ, capture_output=True, text=True, timeout=280, check=False
    )


def test_installed_command_returns_exit_code(tmp_path: Path) -> None:
    done = process("classify", "--limt=5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "imagebeam: unknown flag --limt; did you mean --limit?\n"


def test_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imagebeam.pipeline", "--version"],
        cwd=tmp_path, capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("imagebeam ")


@pytest.mark.parametrize(
    ("command", "stream", "code"),
    [
        ("classify --limit=0", "2>&1", 2),
        pytest.param("classify --help", "", 0, marks=pytest.mark.long),
        pytest.param("tasks show describe", "", 0, marks=pytest.mark.long),
    ],
)
def test_closed_pipe_keeps_the_exit_code(tmp_path: Path, command: str, stream: str, code: int) -> None:
    done = subprocess.run(
        f"(sleep 2; {IMAGEBEAM} {command}) {stream} | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, "")


def test_a_closed_pipe_keeps_the_exit_code() -> None:
    script = (
        "import sys; from imagebeam.pipeline.console.console import Console; c = Console()\n"
        "for n in range(2_000): c.print('x' * 99); c.print_table(['n'], [[n]])\n"
        "sys.exit(4)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 4


def test_a_table_fits_a_terminal_of_80_columns() -> None:
    printed = on_a_terminal(TABLE)
    plain = re.sub(r"\x1b\[\d+m", "", printed)
    assert "\x1b[1m" in printed, "the header is bold"
    assert max(map(len, plain.splitlines())) <= 80
    assert "\x1b" not in plain
    start = plain.splitlines()[0].index("uri")
    assert URI in "".join(line[start:] for line in plain.splitlines()), "nothing is cut"


def test_output_that_is_not_for_a_terminal_has_no_color_codes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TABLE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"},
    )
    assert "\x1b" not in done.stdout


def test_progress_on_a_terminal_is_erased_at_the_end() -> None:
    printed = on_a_terminal(
        "import time; from imagebeam.pipeline.console import progress\n"
        "from imagebeam.pipeline.console.console import Console\n"
        "from imagebeam.transforms.core.counts import OutcomeCounts\n"
        "class Engine:\n    looks = 0\n"
        "    def progress(self):\n        self.looks += 1\n        return OutcomeCounts(read=9, ok=150), 8, 1.0\n"
        "    def wait(self, looks):\n        while self.looks < looks: time.sleep(0.01)\n"
        "engine = Engine()\nprogress.live_engines = lambda: [engine]\n"
        "progress.SAMPLE_INTERVAL_S = 0.05\n"
        "console = Console()\n"
        "with progress.Progress(300, console):\n    engine.wait(4); console.status('a line'); engine.wait(8)\n"
        "console.status('end')\n"
    )
    assert "150/300" in printed
    assert "━" in printed
    assert "a line" in printed
    assert printed.rstrip().endswith("end")
    assert "\x1b[2K" in printed, "the block is erased"


def on_a_terminal(script: str) -> str:
    """Run a script on a pseudo terminal of 80 columns; give all that it prints."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    environ.pop("NO_COLOR", None)
    with subprocess.Popen([sys.executable, "-c", script], stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        printed = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            printed += chunk
        assert process.wait() == 0, printed
    os.close(ours)
    return printed.decode().replace("\r\n", "\n")
