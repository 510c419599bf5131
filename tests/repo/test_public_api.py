"""The public names: documented, importable, and the same for Python and for type checkers."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest
from support.paths import ROOT

PUBLIC = ("imagebeam.transforms", "imagebeam.pipeline")


def type_checking_imports(package: str) -> dict[str, str]:
    """Return what a type checker sees: public name → module."""
    source = (ROOT / package.removeprefix("imagebeam.") / "__init__.py").read_text(encoding="utf-8")
    (branch,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module) for node in branch.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


@pytest.mark.parametrize("package", PUBLIC)
def test_python_and_type_checkers_see_the_same_public_names(package: str) -> None:
    module = importlib.import_module(package)
    seen = type_checking_imports(package)
    assert sorted(seen) == sorted(module.__all__)
    for name, place in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(place), name)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_documentation(package: str) -> None:
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not inspect.getdoc(getattr(module, name))] == []


@pytest.mark.parametrize("package", PUBLIC)
def test_rejects_an_unknown_public_name(package: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Typo'"):
        importlib.import_module(package).Typo  # noqa: B018


def test_importing_a_public_record_loads_neither_beam_nor_a_google_client() -> None:
    program = (
        "import sys\nfrom imagebeam.transforms import Outcome, Unit, load_task\n"
        "print([name for name in sys.modules if name.startswith(('apache_beam', 'google.cloud.', 'google.genai'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=280)
    assert done.stdout == "[]\n"
