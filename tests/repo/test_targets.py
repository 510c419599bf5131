"""The selection of tests: what is long, which test covers which failure, and the record of ``make test-long``."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from support.long_run import RECORD, describe_commit, format_record
from support.paths import ROOT

REPORT = '<testsuites><testsuite tests="12" failures="0" errors="0" skipped="2"/></testsuites>'


def test_record_has_commit_and_figures() -> None:
    text = format_record("abc", REPORT, 61.5)
    for line in ("| commit | abc |", "| tests passed | 10 |", "| tests skipped | 2 |", "| duration | 62 s |"):
        assert line in text


def test_commit_is_marked_if_files_other_than_the_record_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, check=True)

    git("init")
    (tmp_path / "a.txt").write_text("a")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / RECORD).parent.mkdir()
    (tmp_path / RECORD).write_text("record")
    assert describe_commit(tmp_path).isalnum()
    (tmp_path / "a.txt").write_text("b")
    assert describe_commit(tmp_path).endswith(" with uncommitted changes")


def test_mechanisms_have_a_test_that_is_not_long() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| `([^`]+\.py)::(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) > 20
    for file, name in rows:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert "pytest.mark.long" not in [ast.unparse(mark) for mark in found.decorator_list], name


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "scenarios").glob("test_*.py")), ids=lambda path: path.name)
def test_scenarios_are_long(path: Path) -> None:
    assert "\npytestmark = pytest.mark.long\n" in path.read_text(encoding="utf-8")
