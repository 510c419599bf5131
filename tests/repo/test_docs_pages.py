"""The pages of docs/: commands parse, links lead somewhere, generated pages are current, quoted messages exist."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
from support.documents import anchors, commands, inline_commands, links
from support.jobs import run_cli
from support.paths import ROOT

from docs.generate.pages import build_pages
from imagebeam.emulators import cli as local_cli
from imagebeam.pipeline.cli.main import build_root
from imagebeam.pipeline.flags.command import CommandGroup, FlagCommand
from imagebeam.transforms.core.errors import UserError

DOCS = ROOT / "docs"
GUIDE = (DOCS / "guides" / "dataflow.md").read_text(encoding="utf-8")
TROUBLE = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
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


#: Every page that users read.
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")))


def parse(argv: list[str]) -> None:
    """Parse a command line as ``imagebeam`` does.

    Raises:
        UserError: It has an unknown command or flag, or an invalid value.
    """
    if argv == ["local"]:  # a group, named in a sentence
        return
    if argv[0] == "local":
        with local_cli.command.make_context("imagebeam local", argv[1:]) as context:
            name, found, rest = local_cli.command.resolve_command(context, argv[1:])
            assert found is not None
            found.make_context(name, rest)
        return
    command: click.Command = build_root()
    while isinstance(command, CommandGroup):
        name = argv[0] if argv and not argv[0].startswith("-") else command.default
        if not name and not argv:  # prints help
            return
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise UserError(f"unknown command {name}")
        command, argv = found, argv[argv[:1] == [name] :]
    assert isinstance(command, FlagCommand)
    command.parse(argv)


def test_rejects_commands_that_do_not_parse() -> None:
    for line in ("classify --task=a --limt=5", "clasify --task=a", "batch stop", "local sql --directory=x 'SELECT 1'"):
        with pytest.raises(UserError):
            parse(shlex.split(line))


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # it names what was before
def test_commands_of_all_pages_parse(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for command in (*commands(text), *inline_commands(text)):
        words = shlex.split(command)
        if words[0] == "imagebeam" and words[1:] not in ([], ["--help"], ["--version"]):
            try:
                parse([word for word in words[1:] if word != "--help"])
            except UserError as error:
                pytest.fail(f"{page}: {command}: {error}")


def test_generated_pages_match_the_code() -> None:
    stale = [name for name, text in build_pages(ROOT).items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m docs.generate --write"


def test_guide_and_schedules_use_the_same_account() -> None:
    account = "imagebeam-worker@my-project.iam.gserviceaccount.com"
    assert f"--service_account_email={account}" in GUIDE
    assert f"--service_account_email={account}" in (DOCS / "guides" / "schedule.md").read_text(encoding="utf-8")
    for role in ("roles/dataflow.worker", "roles/bigquery.user", "roles/aiplatform.user"):
        assert f"--member=serviceAccount:{account} --role={role}" in GUIDE


def test_finds_links_and_anchors() -> None:
    page = "# One two\n## `a_b` <c>: d!\n[x](other.md#y) ![i](i.png)\n```bash\n# no\n```\n## One two\n[z](#one-two)\n"
    assert anchors(page) == {"one-two", "a_b-c-d", "one-two-1"}
    assert links(page) == ["other.md#y", "i.png", "#one-two"]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_all_pages_are_valid(page: str) -> None:
    path = ROOT / page
    for link in links(path.read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{page}: {link}"
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_every_page_is_linked_from_the_table_of_contents() -> None:
    found = {link.partition("#")[0] for link in links((DOCS / "README.md").read_text(encoding="utf-8"))}
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"README.md"}
    assert pages - found == set()


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


def test_quoted_tests_exist() -> None:
    quoted = {
        found
        for page in PAGES
        for found in re.findall(r"`(tests/\S+\.py::\w+)`", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert len(quoted) > 10
    for test in sorted(quoted):
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test
