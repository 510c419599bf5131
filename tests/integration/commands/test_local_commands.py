"""The commands of the README and of documentation pages, run word by word on a new local cloud.

A page takes part if it contains ``imagebeam local env``. Commands that need a real project are marked, see
:func:`support.documents.marked_commands`.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.documents import local_commands
from support.paths import ROOT

PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if any("imagebeam local env" in command for command in local_commands(path.read_text(encoding="utf-8")))
]
#: Commands that other tests run, or that set up the shell of a reader.
OTHERS = ("make test", "make bench", "source ")
#: The same program without an installation.
INSTEAD = {"make demo": "imagebeam local demo"}


def page_commands(page: Path) -> list[str]:
    found = local_commands(page.read_text(encoding="utf-8"))
    return [INSTEAD.get(command, command) for command in found if not command.startswith(OTHERS)]


def run_in_one_shell(lines: Sequence[str], directory: Path, timeout_s: float) -> None:
    """Run commands in one shell, as a reader does in the checkout."""
    for name in ("emulators", "examples"):
        (directory / name).symlink_to(ROOT / name)
    script = "set -e\n" + "".join(f"echo {shlex.quote(f'$ {line}')}\n{line}\n" for line in lines)
    environ = {
        **os.environ,
        "HOME": str(directory),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    finally:
        subprocess.run(
            ["imagebeam", "local", "down"], cwd=directory, env=environ, capture_output=True, check=False, timeout=100
        )
    assert done.returncode == 0, done.stdout[-5000:]


def test_pages_with_local_commands_start_and_stop_the_cloud() -> None:
    assert PAGES
    for page in PAGES:
        found = page_commands(page)
        assert "imagebeam local up --detach" in found, page
        assert found[-1] == "imagebeam local down", page


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_on_the_local_cloud(page: Path, tmp_path: Path) -> None:
    run_in_one_shell(page_commands(page), tmp_path, 1100)
