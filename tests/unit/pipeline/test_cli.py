"""The command line: commands, exit codes, one line per mistake, help."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
import yaml

from imagebeam.pipeline.cli import main as cli
from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.command import CommandGroup, FlagCommand
from imagebeam.transforms.core.errors import ReconciliationError, SystemicError, UserError
from imagebeam.transforms.tasks import catalog

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty directory, without a project; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    monkeypatch.delenv("IMAGEBEAM_TRACE", raising=False)

    def call(*argv: str) -> tuple[int, str, str]:
        code = cli.main(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def command(name: str, function: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch) -> None:
    made = FlagCommand(name, {}, lambda line: function(list(line.words)))
    monkeypatch.setattr(cli, "COMMANDS", {**cli.COMMANDS, name: made})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["clasify"], "unknown command clasify; did you mean classify?"),
        (["xyzzy"], "unknown command xyzzy; the commands are init, "),
        (["--task=x"], "the command comes first"),
        (["classify"], "no task: set --task=NAME"),
        (["classify", "--limt=5"], "unknown flag --limt; did you mean --limit?"),
        (["classify", "--task=x"], "no source"),
        (["classify", "--sample_percent=200"], "--sample_percent takes a number above 0 up to 100"),
        (["tasks", "lst"], "unknown command tasks lst; did you mean list?"),
        (["tasks", "list", "more"], "does not accept the argument 'more'"),
        (["tasks", "list", "--jsn"], "unknown flag --jsn; did you mean --json?"),
        (["tasks", "list", "--region=x"], "unknown flag --region; see imagebeam tasks list --help"),
        (["tasks", "show"], "takes one task"),
        (["tasks", "show", "image_qualty"], "does not exist, neither shipped nor in tasks/; did you mean"),
        (["tasks", "show", "qqqq"], "; known tasks are describe, "),
        (
            ["tasks", "show", "image_quality", "--model=gemini 3.5"],
            "'gemini 3.5' is not the name of a model",
        ),
        (["tasks", "check"], "takes files"),
        (["tasks", "check", "none.yaml"], "file none.yaml does not exist"),
        (["tasks", "check", "bad.yaml"], "bad.yaml: promt: unknown key; did you mean prompt?"),
        (["tasks", "check", "level.yaml"], "generation.thinking"),
        (["tasks", "check", "binary.yaml"], "cannot read binary.yaml"),
        (["tasks", "new"], "takes one name"),
        (["tasks", "new", "Bad Name"], "name"),
        (["tasks", "new", "../x"], "name"),
        (["init", "--limit=0"], "--limit takes a whole number from 1 up"),
        (["init", "--config=none/imagebeam.yaml"], "cannot write"),
    ],
)
def test_rejects_invalid_input_with_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, argv: Sequence[str], said: str
) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\npromt: x\nprompt: y\n")
    (tmp_path / "level.yaml").write_text("name: a\nprompt: y\ngeneration: {thinking: 3}\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("imagebeam: ")
    assert said in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_shows_help_without_command(run: Run) -> None:
    assert run() == run("--help") == run("help")
    code, out, _ = run()
    assert code == 0
    for name in (*cli.COMMANDS, "local"):
        assert f"\n  {name} " in out


def test_prints_version(run: Run) -> None:
    assert run("--version") == (0, f"imagebeam {importlib.metadata.version('imagebeam')}\n", "")


@pytest.mark.parametrize("columns", [60, 80, 110])
def test_help_fits_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run("classify", "--help")
    assert code == 0
    described = out.split("Examples:")[1].split("\n\n", 1)[1]
    assert max(len(line) for line in described.splitlines()) <= columns
    for name, flag in CLASSIFY.items():
        assert (f"\n  --{name}" in out) == (not flag.replaced_by)


def test_text_width_is_between_60_and_110_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert help_text.width() == 60
    monkeypatch.setenv("COLUMNS", "400")
    assert help_text.width() == 110


@pytest.mark.parametrize("argv", [["tasks"], ["tasks", "--help"], ["init", "--help"], ["tasks", "list", "-h"]])
def test_every_command_has_help(run: Run, argv: Sequence[str]) -> None:
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    assert f"Usage: imagebeam {argv[0]}" in out


def test_names_of_the_help_option_do_not_depend_on_the_first_context() -> None:
    made = FlagCommand("made", {}, lambda _: 0)
    made.get_params(click.Context(made))
    with pytest.raises(click.exceptions.Exit):
        made.make_context("made", ["-h"])


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (SystemicError, 3), (ReconciliationError, 1)])
def test_prints_errors_as_one_line_with_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: type[Exception], code: int
) -> None:
    def fail(_: list[str]) -> int:
        raise error("what\n   where")

    command("fail", fail, monkeypatch)
    assert run("fail") == (code, "", "imagebeam: what where\n")


def test_interrupt_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    command("long", interrupted, monkeypatch)
    assert run("long") == (130, "", "imagebeam: interrupted\n")


def test_internal_errors_keep_their_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command("broken", lambda _: 1 // 0, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        run("broken")


@pytest.mark.parametrize("argv", [["--log_level=debug"], ["--log-level", "debug"]])
def test_debug_log_level_prints_traceback(run: Run, argv: Sequence[str]) -> None:
    code, _, err = run("classify", *argv)
    assert code == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("imagebeam: no task")


def test_trace_variable_prints_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEBEAM_TRACE", "1")
    assert "Traceback" in run("classify")[2]


def test_plugin_gets_the_arguments(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "shutil:which", cli.PLUGINS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    monkeypatch.setattr(shutil, "which", lambda argv: len(argv))
    assert run("mine", "a", "b")[0] == 2
    assert "From shutil." in run("--help")[1]


def test_plugin_without_its_extra_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "no_such_module:main", cli.PLUGINS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    code, _, err = run("mine")
    assert code == 2
    assert err == "imagebeam: imagebeam mine needs the module no_such_module: pip install 'imagebeam[mine]'\n"


def test_lists_shipped_tasks_that_pass_the_check(run: Run) -> None:
    code, out, _ = run("tasks", "list")
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split() == ["name", "version", "unit", "from", "description"]
    names = [line.split()[0] for line in lines]
    assert {"describe", "image_quality", "road_sign", "utility_pole"} <= set(names)
    rows = json.loads(run("tasks", "list", "--json")[1])
    assert [row["name"] for row in rows] == names
    assert {row["from"] for row in rows} == {"shipped"}
    for name in names:
        assert run("tasks", "check", name)[0] == 0


def test_shows_version_columns_and_price_of_a_task(run: Run) -> None:
    code, out, _ = run("tasks", "show", "image_quality")
    facts = json.loads(run("tasks", "show", "image_quality", "--json")[1])
    assert code == 0
    assert f"version   {facts['version']}\n" in out
    assert all(column in out for column in facts["columns"])
    assert 0 < facts["usd_per_image"]["flex"] < facts["usd_per_image"]["online"] < 0.01
    assert facts["tokens_per_image"]["input"] > 0
    assert "prompt:" in out, "the file itself is shown too"


def test_model_changes_version_and_price(run: Run) -> None:
    default = json.loads(run("tasks", "show", "describe", "--json")[1])
    other = json.loads(run("tasks", "show", "describe", "--model=gemini-3.5-flash", "--json")[1])
    assert default["version"] != other["version"]
    assert default["usd_per_image"]["online"] != other["usd_per_image"]["online"]


def test_new_task_passes_the_check(run: Run, tmp_path: Path) -> None:
    assert run("tasks", "new", "street_light")[0] == 0
    code, out, _ = run("tasks", "check", "tasks/street_light.yaml")
    assert code == 0
    assert "condition STRING" in out
    assert "street_light" in run("tasks", "list")[1]
    assert run("tasks", "check", "street_light")[0] == 0
    code, _, err = run("tasks", "new", "street_light")
    assert (code, err) == (
        2,
        "imagebeam: tasks/street_light.yaml already exists; edit it, or use --force to overwrite it\n",
    )
    (tmp_path / "tasks" / "street_light.yaml").write_text("broken")
    assert run("tasks", "new", "street_light", "--force")[0] == 0
    assert run("tasks", "check", "street_light")[0] == 0


def test_every_comment_of_the_task_template_is_valid(run: Run, tmp_path: Path) -> None:
    run("tasks", "new", "everything")
    path = tmp_path / "tasks" / "everything.yaml"
    keys = ("model:", "system:", "unit:", "max_images:", "generation:", "media_resolution:", "image:", "  ")
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and line.removeprefix("# ").startswith(keys) else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines).replace("  imagebeam tasks check", "# imagebeam tasks check"))
    assert set(yaml.safe_load(path.read_text())) >= {"model", "system", "unit", "max_images", "generation", "image"}
    code, out, err = run("tasks", "check", "everything")
    assert (code, err) == (0, "")
    assert "unit      asset" in out


def test_checks_several_files(run: Run) -> None:
    facts = json.loads(run("tasks", "check", "describe", "image_quality", "--json")[1])
    assert [fact["name"] for fact in facts] == ["describe", "image_quality"]


def test_check_warns_about_settings_that_the_model_ignores(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hot.yaml").write_text("name: hot\nprompt: Look.\ngeneration: {temperature: 0.2, top_p: 0.9}\n")
    lines = run("tasks", "check", "hot.yaml")[1].splitlines()
    assert [line for line in lines if line.startswith("warning")] == [
        f"warning   model gemini-3.5-flash-lite ignores generation.{name}: not sent, not part of the version"
        for name in ("temperature", "top_p")
    ]
    honored = json.loads(run("tasks", "check", "hot.yaml", "--model=gemini-2.5-flash", "--json")[1])[0]
    ignored = json.loads(run("tasks", "check", "hot.yaml", "--json")[1])[0]
    assert (honored["warnings"], len(ignored["warnings"])) == ([], 2)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "hot.yaml").rename(tmp_path / "tasks" / "hot.yaml")
    listed = {row["name"]: row["version"] for row in json.loads(run("tasks", "list", "--json")[1])}
    assert listed["hot"] == ignored["version"] != honored["version"]


def test_local_task_overrides_shipped_task(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "describe.yaml").write_text("name: describe\nprompt: Mine.\n")
    rows = {row["name"]: row for row in json.loads(run("tasks", "list", "--json")[1])}
    assert rows["describe"]["from"] == "tasks/describe.yaml"
    task = catalog.load_task("describe", catalog.load_models_file(), tmp_path)
    assert task.prompt.strip() == "Mine."


def test_accepts_a_task_file_at_any_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: describe\nprompt: Mine.\n")
    models = catalog.load_models_file()
    for name in ("mine.yaml", "./mine.yaml", str(tmp_path / "mine.yaml")):
        assert catalog.load_task(name, models, tmp_path).prompt.strip() == "Mine."


def test_reads_models_and_prices_from_a_file(run: Run, tmp_path: Path) -> None:
    shipped = Path(catalog.__file__).parent / "data" / "models.yaml"
    (tmp_path / "models.yaml").write_text(shipped.read_text().replace("as_of: ", "as_of: 2020-01-02 # "))
    facts = json.loads(run("tasks", "show", "describe", "--models_file=models.yaml", "--json")[1])
    assert facts["prices_as_of"] == "2020-01-02"
    code, _, err = run("tasks", "list", "--models_file=none.yaml")
    assert (code, err.count("\n")) == (2, 1)
    assert "none.yaml" in err


def test_init_writes_flags_and_does_not_overwrite(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("init", "--project=my-project", "--results=answers", "--limit=5")
    assert (code, out) == (0, "imagebeam.yaml written: project, results, limit\n")
    read = config_file.read(tmp_path / "imagebeam.yaml", required=True)
    assert read.given == {"project": "my-project", "results": "answers", "limit": 5}
    before = (tmp_path / "imagebeam.yaml").read_text()
    code, _, err = run("init", "--limit=6")
    assert code == 2
    assert "exists; edit it, or use --force to overwrite it" in err
    assert (tmp_path / "imagebeam.yaml").read_text() == before
    assert run("init", "--limit=6", "--force")[0] == 0
    assert config_file.read(tmp_path / "imagebeam.yaml", required=True).given == {"limit": 6}


def test_init_keeps_beam_options(run: Run, tmp_path: Path) -> None:
    assert run("init", "--region=europe-west6")[0] == 0
    assert config_file.read(tmp_path / "imagebeam.yaml", required=True).beam == ("--region=europe-west6",)


def test_classify_reads_the_file_of_init(run: Run) -> None:
    run("init", "--source=photos.latest", "--project=my-project")
    assert "no results" in run("classify", "--task=describe")[2]


def every_command() -> list[list[str]]:
    """Name every command and subcommand."""
    found: list[list[str]] = []

    def walk(group: CommandGroup, words: list[str]) -> None:
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            found.append([*words, name])
            if isinstance(command, CommandGroup):
                walk(command, [*words, name])

    walk(cli.build_root(), [])
    return [[], *found, ["local"]]


def test_every_help_fits_80_columns_without_heavy_imports(tmp_path: Path) -> None:
    program = (
        "import io, contextlib, sys\n"
        "from imagebeam.pipeline.cli.main import main\n"
        f"for words in {every_command()!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        assert main([*words, '--help']) == 0, words\n"
        "    wide = [line for line in out.getvalue().splitlines() if len(line) > 80]\n"
        "    if wide and words != ['local']: print(words, wide)\n"
        "    heavy = ('apache_beam', 'google.cloud.', 'google.auth', 'aiohttp', 'duckdb', 'numpy', 'rich')\n"
        "    found = [name for name in sys.modules if name.startswith(heavy)]\n"
        "    if found: print(words, found[:5]); break\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_completes_commands_flags_and_choices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(words: str) -> list[str]:
        monkeypatch.setenv("_IMAGEBEAM_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", f"imagebeam {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
        return [line.partition(",")[2] for line in run()[1].splitlines()]

    assert complete("cl") == ["classify"]
    assert complete("classify --repro") == ["--reprocess"]
    assert complete("embed --lane=b")[:1] in (["batch"], ["--lane=batch"])
    assert complete("plan em") == ["embed"]


@pytest.mark.parametrize("argv", [["tasks", "list"], ["classify", "--limit=0"]])
def test_quick_commands_import_neither_beam_nor_a_google_client(tmp_path: Path, argv: Sequence[str]) -> None:
    program = (
        "import sys\n"
        "from imagebeam.pipeline.cli.main import main\n"
        f"main({list(argv)!r})\n"
        "heavy = ('apache_beam', 'google.cloud.', 'google.genai', 'aiohttp')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
