"""``imagebeam.yaml``: the flags that repeat, under the same names."""

import datetime as dt
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import IN_FILE, Flag, Group, by_name
from imagebeam.pipeline.flags.parser import Arguments
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import load_mapping, suggestion


def read(path: Path, *, required: bool) -> Arguments:
    """Reads the file.

    Args:
        path: Where it is.
        required: Whether a missing file is an error; else it is the same as an empty one.

    Raises:
        UserError: The file is missing, no YAML mapping, or has an unknown key or a bad value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise UserError(f"no file {path}; imagebeam init writes one") from None
        return Arguments({})
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return parse(text, where=path.name)


def parse(text: str, *, where: str) -> Arguments:
    """Reads the file's text.

    >>> parse("limit: 10", where="imagebeam.yaml").values
    {'limit': 10}

    Raises:
        UserError: See :func:`read`.
    """
    if all(line.lstrip().startswith("#") or not line.strip() for line in text.splitlines()):
        return Arguments({})
    document = load_mapping(text, where).content
    flags = by_name(IN_FILE)
    values: dict[str, Any] = {}
    beam: list[str] = []
    for key, value in document.items():
        # YAML 1.1 reads a bare `yes` as true.
        name = "yes" if key is True else str(key)
        here = f"{name} in {where}"
        if name in flags:
            if value is not None:
                values[name] = flag_values.from_yaml(flags[name], value, where=here)
        else:
            beam += _beam_option(name, value, here, where)
    beam_flags.check(beam)
    return Arguments(values, tuple(beam))


def _beam_option(name: str, value: object, here: str, where: str) -> list[str]:
    if name in {"yes", "json", "config", "run_id", "force"}:
        raise UserError(f"{name} cannot stand in {where}: give --{name} on the command line")
    known = [flag.name for flag in IN_FILE]
    if not beam_flags.is_beam_option(name):
        hint = suggestion(name, known) or suggestion(name, beam_flags.names())
        raise UserError(
            f"unknown key {name} in {where}{hint or '; the keys are the flags of imagebeam classify --help'}"
        )
    if value is None:
        return []
    return beam_flags.from_yaml(name, value, where=here)


def write(given: Mapping[str, Any], beam: Sequence[str] = ()) -> str:
    """The text of a file with these values, and every other key as a comment.

    Args:
        given: Values by flag name.
        beam: Beam's own options, as Beam takes them.
    """
    lines = [
        "# imagebeam.yaml: flags that repeat, under the same names. Flags on the command line override them.",
        "# Every key is here; take the # away to set one. Options of Beam (region …) may stand here too.",
    ]
    for group in Group:
        lines += ["", f"# --- {group.value} ---"]
        for flag in IN_FILE:
            if flag.group is group:
                lines += [
                    "",
                    *textwrap.wrap(_comment(flag), 108, initial_indent="# ", subsequent_indent="# "),
                ]
                lines.append(
                    f"{flag.name}: {_yaml(flag, given[flag.name])}"
                    if flag.name in given
                    else f"# {flag.name}: {_yaml(flag, _shown(flag))}"
                )
    if beam:
        lines += ["", "# --- Beam ---", ""]
        lines += _beam_lines(beam)
    return "\n".join(lines) + "\n"


def _comment(flag: Flag) -> str:
    return f"{flag.help} One of {', '.join(flag.choices)}." if flag.choices else flag.help


def _shown(flag: Flag) -> Any:
    return flag_values.from_text(flag, flag.example, where=flag.name) if flag.default in (None, ()) else flag.default


def _yaml(flag: Flag, value: Any) -> str:
    scalar: object = value if isinstance(value, bool | int) else flag_values.to_text(flag, value)
    if isinstance(value, float):
        scalar = int(value) if value.is_integer() else value
    if isinstance(scalar, str) and _is_time(scalar):
        return scalar
    text: str = yaml.safe_dump(scalar, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _is_time(text: str) -> bool:
    try:
        dt.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _beam_lines(beam: Sequence[str]) -> list[str]:
    options: dict[str, Any] = {}
    for argument in beam:
        name, equals, text = argument.removeprefix("--").partition("=")
        if name in options:
            first = options[name]
            options[name] = [*(first if isinstance(first, list) else [first]), text]
        else:
            options[name] = text if equals else True
    dumped: str = yaml.safe_dump(options, sort_keys=False, width=10_000, allow_unicode=True)
    return dumped.splitlines()
