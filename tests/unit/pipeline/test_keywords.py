"""Keyword arguments of the Python functions: the same names, values and checks as on the command line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from imagebeam.pipeline.api import signatures
from imagebeam.pipeline.api.keywords import read_keywords
from imagebeam.pipeline.cli import commands
from imagebeam.pipeline.flags.command import FlagCommand
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.setting import Flags, Kind, Setting
from imagebeam.pipeline.flags.values import to_text
from imagebeam.pipeline.planning.settings import PLAN
from imagebeam.pipeline.run.embed_settings import JOBS
from imagebeam.pipeline.similarity.settings import SEARCH, load_search
from imagebeam.transforms.core.errors import UserError

JOB: Mapping[str, Any] = {
    "task": "describe",
    "source": "data.images",
    "results": "answers",
    "project": "my-project",
    "run_id": "fixed",
}
FUNCTIONS: Mapping[str, Flags] = {
    **{name: job.flags for name, job in JOBS.items()},
    "plan": {**JOBS["classify"].flags, **PLAN},
    "search": SEARCH,
}
EVERY_FLAG = [(function, flag) for function, flags in FUNCTIONS.items() for flag in flags.values()]


def command_line(function: str, arguments: list[str]) -> FlagValues:
    command = getattr(commands, function)
    if not isinstance(command, FlagCommand):
        command = command.members["classify"]
    found: FlagValues = command.parse(arguments)
    return found


def settings_of(function: str, line: FlagValues, directory: Path) -> object:
    """Return the settings of a job or a search, or the message of the error."""
    place: dict[str, Any] = {"cwd": directory, "environ": {}}
    try:
        return load_search(line, **place) if function == "search" else JOBS[function].load(line, **place)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(("function", "flag"), EVERY_FLAG, ids=lambda value: getattr(value, "name", value))
def test_every_flag_is_a_keyword_argument(function: str, flag: Setting) -> None:
    text = flag.example or to_text(flag, flag.default)
    expected = command_line(function, [f"--{flag.name}={text}"])
    typed = expected.given[flag.name]
    assert read_keywords(function, FUNCTIONS[function], {flag.name: text}, beam=True) == expected
    assert read_keywords(function, FUNCTIONS[function], {flag.name: typed}, beam=True) == expected
    assert read_keywords(function, FUNCTIONS[function], {flag.name: None}, beam=True) == FlagValues()


@pytest.mark.parametrize("function", ["classify", "embed", "search"])
def test_every_keyword_argument_gives_the_settings_of_its_flag(function: str, tmp_path: Path) -> None:
    flags = FUNCTIONS[function]
    base = {name: value for name, value in JOB.items() if name in flags}
    if function == "search":
        base["text"] = "a dark street"
    valid = 0
    for flag in flags.values():
        given = {**base, flag.name: flag.example or to_text(flag, flag.default)}
        line = command_line(function, [f"--{name}={value}" for name, value in given.items()])
        typed = {name: line.given[name] for name in given}
        expected = settings_of(function, line, tmp_path)
        assert settings_of(function, read_keywords(function, flags, typed, beam=True), tmp_path) == expected
        valid += not isinstance(expected, str)
    assert valid > len(flags) / 2


def test_accepts_values_of_python() -> None:
    line = read_keywords(
        "classify",
        JOBS["classify"].flags,
        {
            "asset_types": ["ASSET_CLASS_UTILITY_POLE", "ASSET_CLASS_ROAD_SIGN"],
            "near": (46.948, 7.447, 500),
            "max_cost_usd": Decimal("2.50"),
            "models_file": Path("models.yaml"),
            "columns": {"uri": "photo_uri"},
            "captured_from": dt.date(2026, 1, 1),
            "quiet": True,
            "limit": None,
        },
        beam=True,
    )
    same = command_line(
        "classify",
        [
            "--asset_types=ASSET_CLASS_UTILITY_POLE,ASSET_CLASS_ROAD_SIGN",
            *("--near=46.948,7.447,500", "--max_cost_usd=2.50", "--models_file=models.yaml", "--columns=uri=photo_uri"),
            *("--captured_from=2026-01-01", "--quiet"),
        ],
    )
    assert line == same


def test_passes_options_of_beam() -> None:
    given = {"runner": "DataflowRunner", "region": "us-central1", "num_workers": 3, "no_use_public_ips": True}
    line = read_keywords("classify", JOBS["classify"].flags, given, beam=True)
    same = command_line(
        "classify", ["--runner=DataflowRunner", "--region=us-central1", "--num_workers=3", "--no_use_public_ips"]
    )
    assert line == same


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tsk": "describe"}, r"classify\(\) has no argument tsk; did you mean task\?"),
        ({"regoin": "us-central1"}, r"classify\(\) has no argument regoin; did you mean region\?"),
        ({"dry_run": True}, "use imagebeam plan"),
        ({"limit": "many"}, "limit takes a whole number"),
        ({"limit": True}, "limit takes a whole number"),
        ({"limit": [1]}, "limit takes a whole number from 1 up, not a list"),
        ({"quiet": 1}, "quiet takes true or false"),
        ({"lane": "fast"}, "lane takes online, flex, batch"),
        ({"num_workers": "many"}, "a Beam option"),
        ({"unit_batch_size": 1, "group_size": 2}, "unit_batch_size is given twice"),
    ],
)
def test_rejects_an_invalid_argument(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_keywords("classify", JOBS["classify"].flags, given, beam=True)


def test_rejects_options_of_beam_where_the_command_does() -> None:
    with pytest.raises(UserError, match="has no argument region"):
        read_keywords("search", SEARCH, {"region": "us-central1"}, beam=False)


def test_warns_about_a_deprecated_name(capsys: pytest.CaptureFixture[str]) -> None:
    line = read_keywords("classify", JOBS["classify"].flags, {"group_size": 5}, beam=True)
    assert line.given == {"unit_batch_size": 5}
    assert capsys.readouterr().err == "warning: group_size is deprecated; use unit_batch_size\n"


@pytest.mark.parametrize("name", ["arguments.py", "beam_arguments.py"])
def test_types_of_the_arguments_match_the_declarations(name: str) -> None:
    written = (ROOT / signatures.DIRECTORY / name).read_text(encoding="utf-8")
    assert written == signatures.build_modules()[name], "run: python -m imagebeam.pipeline.api.signatures --write"


def test_every_kind_of_value_has_a_type() -> None:
    assert {flag.kind for _, flag in EVERY_FLAG} <= {*signatures.TYPES, Kind.TEXT}
