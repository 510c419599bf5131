"""``imagebeam local``: what a person types, and what comes back."""

import datetime
import decimal
import importlib.metadata
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from google.cloud import bigquery

from imagebeam.emulators import cli
from imagebeam.emulators.bigquery.result_text import FORMATS, render
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.running import find_running

_TABLE = """
CREATE TABLE d.t AS
SELECT 'ä' AS name, 1 AS n, NUMERIC '0.5' AS price, TIMESTAMP '2026-01-02 03:04:05.25 UTC' AS at
UNION ALL SELECT NULL, 2, NULL, NULL
"""


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["upp"], "did you mean up?"),
        (["up", "--froce"], "unknown flag --froce; did you mean --force?"),
        (["up", "--prot=1"], "did you mean --port?"),
        (["sql", "SELECT", "1"], "put the SQL statement in quotes"),
        (["sql", "SELECT 1", "--format=xml"], "invalid choice: 'xml'"),
        (["up", "--port=99999"], "invalid port '99999' (0 to 65535)"),
        (["up", "--seed=-1"], "invalid seed"),
        (["up", "--port"], "requires an argument"),
        (["sql"], "Missing argument 'QUERY'"),
        (["--dir=x"], "the command comes first"),
        ([], "required"),
    ],
)
def test_invalid_arguments_are_one_line_and_exit_code_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert said in _said(capsys)


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "--help"]) == 0
    assert "--port=N" in capsys.readouterr().out
    assert cli.main(["-h"]) == 0
    listed = capsys.readouterr().out
    for name in cli.command.commands:
        assert f"\n  {name} " in listed


@pytest.mark.parametrize("name", ["env", "down"])
def test_env_and_down_need_a_running_cloud(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, f"--dir={tmp_path}"]) == 2
    assert f"no local cloud is running in {tmp_path}: run imagebeam local up --detach" in _said(capsys)


def test_a_server_of_another_directory_is_not_ours(
    cloud: LocalCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "local.json").write_bytes((cloud.directory / "local.json").read_bytes())
    assert cli.main(["down", f"--dir={tmp_path}"]) == 2
    assert "no local cloud is running" in _said(capsys)
    assert find_running(cloud.directory) is not None


def test_stopping_requires_the_token_of_the_state_directory(cloud: LocalCloud) -> None:
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        request = urllib.request.Request(f"{cloud.url}/_local/stop", data=b"{}", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 403
    assert find_running(cloud.directory) is not None
    assert (cloud.directory / "local.json").stat().st_mode & 0o077 == 0


def test_up_rejects_real_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "prod.json"
    key.write_text('{"type": "service_account", "token_uri": "https://oauth2.googleapis.com/token"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    assert cli.main(["up", "--dir", str(tmp_path / "new")]) == 2
    assert "unset GOOGLE_APPLICATION_CREDENTIALS" in _said(capsys)
    assert not (tmp_path / "new").exists()


def test_up_rejects_a_directory_that_it_did_not_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["up", "--dir", str(tmp_path)]) == 2
    assert "does not contain a local cloud" in _said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_up_and_demo_reject_a_running_cloud(cloud: LocalCloud, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("up", "demo"):
        assert cli.main([command, "--dir", str(cloud.directory)]) == 2
        assert f"already running in {cloud.directory}, at {cloud.url}" in _said(capsys)


def test_sql_without_a_cloud_prints_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sql", "SELECT 1", "--dir", str(tmp_path)]) == 2
    assert f"imagebeam local up --dir={tmp_path}" in _said(capsys)


def test_missing_extra_prints_the_install_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "REQUIRED_MODULES", (*cli.REQUIRED_MODULES, "not_installed"))
    assert cli.main(["sql", "SELECT 1"]) == 2
    said = _said(capsys)
    assert "requires not_installed: run pip install 'imagebeam[local]'" in said


def test_extra_contains_every_required_module() -> None:
    extra = [
        line for line in importlib.metadata.requires("imagebeam") or [] if "extra == 'local'" in line.replace('"', "'")
    ]
    for name in cli.REQUIRED_MODULES:
        assert any(line.startswith(name) for line in extra)


def test_csv_and_json_are_complete() -> None:
    long = "ä" * 500
    moment = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    row = (long, decimal.Decimal("0.000001"), moment, {"a": [1, None]}, None, True)
    columns = ["text", "cost", "at", "extra", "nothing", "yes"]
    (read,) = json.loads(render(columns, [row], "json"))
    assert read == {
        "text": long,
        "cost": "0.000001",
        "at": "2026-01-02T03:04:00+00:00",
        "extra": {"a": [1, None]},
        "nothing": None,
        "yes": True,
    }
    assert render(columns, [row], "csv").splitlines()[1].startswith(long)
    assert max(map(len, render(["t"], [(long,)], "table").splitlines())) == 60


def test_empty_result_shows_its_columns() -> None:
    assert render(["a", "b"], [], "table") == "a  b\n-  -\n(0 rows)\n"
    assert render(["a", "b"], [], "csv") == "a,b\n"
    assert render(["a", "b"], [], "json") == "[]\n"


@pytest.mark.long
def test_sql_returns_the_same_rows_while_the_cloud_is_up_and_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ["sql", "SELECT name, n, price, at FROM d.t ORDER BY n", "--dir", str(tmp_path)]
    wrong = ["sql", "SELECT * FROM d.nothing", "--dir", str(tmp_path)]
    answers: list[str] = []
    complaints: list[str] = []

    def ask() -> None:
        for form in FORMATS:
            assert cli.main([*query, "--format", form]) == 0
        answers.append(capsys.readouterr().out)
        assert cli.main(wrong) == 2
        complaints.append(_said(capsys))

    with LocalCloud(tmp_path) as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        bigquery.Client().create_dataset("d")
        assert cli.main(["sql", _TABLE, "--dir", str(tmp_path)]) == 0
        capsys.readouterr()
        running = find_running(tmp_path)
        assert running is not None
        assert running.url == started.url
        ask()
    assert find_running(tmp_path) is None
    ask()
    assert answers[0] == answers[1]
    assert complaints[0] == complaints[1]
    assert "d.nothing" in complaints[0]
    assert "ä     1    0.5  2026-01-02T03:04:05.250000+00:00" in answers[0]
