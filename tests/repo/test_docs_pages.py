"""The pages of docs/: commands are valid, quoted messages exist, and names in the architecture page exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from support.documents import commands
from support.jobs import run_cli
from support.paths import ROOT

from imagebeam.pipeline.cli import reference

GUIDE = (ROOT / "docs" / "dataflow.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
#: Whole words in the first column that are statuses and not messages.
STATUS = re.compile(r"[A-Z_]+(?:/[A-Z_]+)?")


def strings() -> list[str]:
    """Return every string in the sources; a formatted value is one NUL."""
    found = []
    for package in ("pipeline", "transforms"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def messages() -> list[str]:
    """Return the quoted messages in the first columns of tables."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", TROUBLE, re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    return [text for text in quoted if not STATUS.fullmatch(text)]


STRINGS = strings()


def exists(message: str) -> bool:
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    return any(pattern.search(text) for text in STRINGS)


def test_finds_messages_and_rejects_invented_ones() -> None:
    assert len(messages()) > 30
    assert exists("no region: set --region")
    assert not exists("no planet: set --region")


@pytest.mark.parametrize("message", messages())
def test_quoted_messages_exist(message: str) -> None:
    assert exists(message), message


def test_explained_statuses_exist() -> None:
    from imagebeam.transforms.core.records import ImageReason, Status

    rows = re.findall(r"^\| (.+?) \| .+ \|$", TROUBLE, re.MULTILINE)
    named = {text for row in rows for text in re.findall(r"`([^`]+)`", row) if STATUS.fullmatch(text)}
    assert named
    for name in named:
        status, _, reason = name.partition("/")
        assert status in list(Status)
        assert not reason or status != "IMAGE_ERROR" or reason in list(ImageReason)


def test_commands_of_the_guide_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(command) for command in commands(GUIDE)]
    ours = [line[1:] for line in lines if line[0] == "imagebeam"]
    assert {line[0] for line in ours} >= {"subscribe", "init", "classify", "template"}
    for line in ours:
        if line[0] == "init" or (line[0] in {"subscribe", "template"} and "--list" not in line):
            more = [] if line[0] == "init" else ["--dry_run"]
            code, _, err = run_cli([*line, *more])
            assert code == 0, err


def test_flag_reference_matches_the_declarations() -> None:
    written = (ROOT / reference.PAGE).read_text(encoding="utf-8")
    assert written == reference.build_page(), "run: python -m imagebeam.pipeline.cli.reference --write"


def test_guide_and_schedules_use_the_same_account() -> None:
    account = "imagebeam-worker@my-project.iam.gserviceaccount.com"
    assert f"--service_account_email={account}" in GUIDE
    assert f"--service_account_email={account}" in (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
    for role in ("roles/dataflow.worker", "roles/bigquery.user", "roles/aiplatform.user"):
        assert f"--member=serviceAccount:{account} --role={role}" in GUIDE


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_between_pages_are_valid(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (ROOT / "docs" / target).exists(), f"{page}: {target}"


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("pipeline", "transforms", "emulators")


def definitions() -> set[str]:
    """Return the names of all classes and functions."""
    return {
        node.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_architecture_names_existing_modules_classes_and_functions() -> None:
    prose, diagrams = re.subn(r"^```.*?^```", "", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    assert diagrams == 3
    quoted = set(re.findall(r"`([^`]+)`", prose))
    paths = {name for name in quoted if "/" in name and name != "tasks/"}
    classes = {name for name in quoted if re.fullmatch(r"(?:[A-Z][a-z]+)+", name)}
    functions = {name.removesuffix("()") for name in quoted if name.endswith("()")}
    # Steps and records in the diagrams.
    classes |= set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", ARCHITECTURE)) - {"BigQuery", "DuckDB"}
    assert len(paths) > 30
    assert len(classes) > 10
    assert len(functions) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert sorted((classes | functions) - definitions()) == []


def test_architecture_lists_every_package() -> None:
    listed = set(re.findall(r"^\| `([^`]+/)` \|", ARCHITECTURE, re.MULTILINE))
    packages = {
        f"{path.parent.relative_to(ROOT)}/" for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")
    }
    assert packages <= listed
