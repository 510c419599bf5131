"""The README and how pages mark commands: each runs in a test, or is marked as needing a project."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.documents import NOT_UNDER_MAKE, commands, marked_commands
from support.jobs import run_cli
from support.paths import ROOT

from imagebeam.pipeline.cli import main as cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
#: A page with this command is run, command by command, by tests/integration/commands/test_local_commands.py.
RUN = 'eval "$(imagebeam local env)"'
#: Pages whose commands have tests of their own.
OWN_TESTS = {
    "docs/guides/batch-input.md": "tests/integration/batch/test_batch_run.py",
    "docs/guides/dataflow.md": "tests/integration/dataflow/test_template_command.py",
    "docs/guides/export.md": "tests/integration/commands/test_export.py",
    "docs/guides/new-objects.md": "tests/integration/commands/test_new_objects.py",
    "docs/guides/schedule.md": "tests/integration/dataflow/test_schedule.py",
    "docs/guides/sql-lane.md": "tests/integration/embed/test_embed_sql.py",
    "docs/guides/statistics.md": "tests/integration/commands/test_demo.py",
    "docs/rate-limiting.md": "tests/unit/engine/test_simulate_pacing.py",
}
#: Pages that users read, without the generated reference.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if "docs/reference/" not in str(path)
)
#: Commands that install, or have a test of their own.
ELSEWHERE = ("make ", "source .venv/bin/activate")


def test_commands_are_found_in_both_kinds_of_blocks() -> None:
    text = "```bash\na b \\\n  c\n# no\nd  # why\n```\n```console\n$ e\noutput\n$ f\n```\n```python\ng\n```\n"
    assert commands(text) == ["a b c", "d", "e", "f"]


def test_marks_belong_to_a_command_or_to_a_block() -> None:
    text = "```bash\na  # needs a project\nb  # else\n```\n- x\n  ```bash\n  # needs a project\n  c\n  ```\n"
    found = [(command.text, command.needs_project) for command in marked_commands(text)]
    assert found == [("a", True), ("b", False), ("c", True)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test_or_marked(page: str) -> None:
    found = marked_commands((ROOT / page).read_text(encoding="utf-8"))
    if page in OWN_TESTS:
        assert found
        assert (ROOT / OWN_TESTS[page]).exists()
    elif RUN not in [command.text for command in found]:
        bare = [each.text for each in found if not each.needs_project and not each.text.startswith(ELSEWHERE)]
        assert bare == []


def test_commands_that_need_no_cloud_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    found = [command for command in commands(page) if command.startswith(("imagebeam init", "imagebeam tasks"))]
    assert len(found) == 5
    for command in found:
        code, _, err = run_cli(shlex.split(command)[1:])
        assert code == 0, f"{command}\n{err}"


def test_readme_is_short_and_begins_with_what_matters() -> None:
    lines = README.splitlines()
    assert len(lines) <= 120
    first_screen = "\n".join(lines[:42])
    for text in ("Deadline-safe batch for images", "cap that holds across workers", "$ make demo", "all units"):
        assert text in first_screen


def test_every_command_of_the_program_is_documented_outside_the_reference() -> None:
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in cli.COMMANDS if f"imagebeam {name}" not in text] == []


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("demo", ".venv/bin/imagebeam local demo"),
        ("test-fast", '.venv/bin/python -m pytest -m "not long" tests/unit tests/repo'),
        ("test", '.venv/bin/python -m pytest -m "not long" -n auto --maxprocesses 4 --dist loadfile'),
        ("test-long", ".venv/bin/python tests/support/long_run.py"),
        ("bench", ".venv/bin/python -m benchmarks.run --write docs/benchmarks.md"),
    ],
)
def test_make_runs_what_it_says(target: str, last: str) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", target],
        cwd=ROOT,
        env=NOT_UNDER_MAKE,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == last
    # On a bare machine it installs first, with the locked versions.
    assert any("-c requirements.lock -e '.[local,dev]'" in line for line in lines)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "imagebeam needs Python 3.11 or newer, and ./python is not there"),
        ('echo "Python 2.7.18"; [ "$1" = -V ]', "imagebeam needs Python 3.11 or newer; ./python is Python 2.7.18"),
        ('case "$2" in *venv*) exit 1;; esac', "this Python has no venv module: install it"),
    ],
)
def test_make_says_in_one_line_what_a_bare_machine_lacks(tmp_path: Path, python: str | None, said: str) -> None:
    for name in ("Makefile", "setup.py", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    if python is not None:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
        (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["make", "PYTHON=./python", "demo"],
        cwd=tmp_path,
        env=NOT_UNDER_MAKE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in commands(README)
    assert script.rstrip().endswith("exec make test")
