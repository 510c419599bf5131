"""The layout: layers hold (import-linter contracts in pyproject.toml), packages and modules stay small."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("pipeline", "transforms", "emulators")
MAX_LINES, MAX_MODULES, MAX_TOP_LEVEL_MODULES = 400, 12, 14

#: Imported before a command is known to need Beam: `--help` must stay fast.
LIGHT = (
    "imagebeam.transforms",
    "imagebeam.pipeline",
    "imagebeam.pipeline.cli.main",
    "imagebeam.pipeline.cli.commands",
    "imagebeam.pipeline.cli.init",
    "imagebeam.pipeline.cli.tasks",
    "imagebeam.pipeline.console.help",
    "imagebeam.pipeline.dataflow.schedule_command",
    "imagebeam.pipeline.dataflow.template_command",
    "imagebeam.pipeline.export.settings",
    "imagebeam.pipeline.run.embed_settings",
    "imagebeam.pipeline.run.settings",
    "imagebeam.pipeline.similarity.settings",
    "imagebeam.pipeline.subscribe.settings",
)


def lint_imports(top: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts on a tree that holds the three packages."""
    (top / ".typing").mkdir(exist_ok=True)
    if not (top / ".typing" / "imagebeam").exists():
        (top / ".typing" / "imagebeam").symlink_to("..")
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=top,
        env={**os.environ, "PYTHONPATH": str(top / ".typing")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "source", "contract"),
    [
        ("transforms/core/records.py", "import apache_beam", "Pure modules"),
        ("transforms/sql/views.py", "def f():\n    from google.cloud import storage", "Pure modules"),
        ("transforms/core/records.py", "from imagebeam.transforms.engine import engine", "Layers of transforms"),
        ("transforms/tasks/task.py", "from imagebeam.transforms.sql import views", "Layers of transforms"),
        ("transforms/engine/engine.py", "import apache_beam", "Clients and engine"),
        ("transforms/read_units.py", "from imagebeam.pipeline.jobs import classify", "never imports pipeline"),
        ("pipeline/jobs/classify.py", "from imagebeam.emulators import cloud", "never imports the local cloud"),
        ("emulators/server.py", "from imagebeam.transforms.clients import bigquery", "only pure modules"),
        (
            "transforms/core/errors.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from imagebeam.transforms.core import strict_yaml",
            "No import cycles",
        ),
    ],
)
def test_a_planted_violation_breaks_its_contract(tmp_path: Path, module: str, source: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.jpg"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{source}\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(contract in line and line.endswith("BROKEN") for line in done.stdout.splitlines()), done.stdout


def modules() -> dict[str, Path]:
    """Every module of the packages, by its path from the top."""
    return {
        str(path.relative_to(ROOT)): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_modules_and_packages_stay_small() -> None:
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: lines for name, lines in sizes.items() if lines > MAX_LINES} == {}
    members: dict[str, int] = {}
    for name in modules():
        if not name.endswith("__init__.py"):
            parent = name.rpartition("/")[0]
            members[parent] = members.get(parent, 0) + 1
    limit = {name: MAX_TOP_LEVEL_MODULES if name in PACKAGES else MAX_MODULES for name in members}
    assert {name: number for name, number in members.items() if number > limit[name]} == {}


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_no_source_file_imports_a_package_without_its_prefix() -> None:
    # transforms.x and imagebeam.transforms.x would be two modules with different classes.
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for directory in (*PACKAGES, "tests", "templates", "examples", "benchmarks")
        for path in sorted((ROOT / directory).rglob("*.py"))
        for name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] in PACKAGES or name.startswith(".")
    ]
    assert found == []


def test_light_modules_load_neither_beam_nor_a_google_client() -> None:
    pure = [
        f"imagebeam.{name.removesuffix('.py').replace('/', '.').removesuffix('.__init__')}"
        for name in modules()
        if name.startswith(("transforms/core/", "transforms/tasks/", "transforms/gemini/", "transforms/sql/"))
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {[*pure, *LIGHT]}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith(('apache_beam', 'google.cloud.', 'google.genai'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=280)
    assert done.stdout == "[]\n", done.stderr
