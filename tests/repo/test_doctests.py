"""The examples in docstrings are true."""

import doctest
import importlib
import importlib.util

import pytest
from support.paths import ROOT

# By their installed names: pytest's own --doctest-modules would import the files as transforms.x, a second
# copy of each class.
MODULES = [
    ".".join(("imagebeam", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for package in ("pipeline", "transforms", "emulators")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_are_true(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0


def test_there_are_examples() -> None:
    assert MODULES
