"""``imagebeam.yaml``: values of flags, under the same names."""

import datetime as dt
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import CLASSIFY, IN_FILE
from imagebeam.pipeline.flags.layers import FlagValues, names_of, warn_if_deprecated
from imagebeam.pipeline.flags.setting import Group, Setting
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import load_mapping, suggestion


def read(path: Path, *, required: bool) -> FlagValues:
    """Read the file.

    Args:
        path: Where it is.
        required: Whether a missing file is an error; otherwise it is the same as an empty one.

    Raises:
        UserError: The file is missing, not a YAML mapping, or has an unknown key or an invalid value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise UserError(f"no file {path}; imagebeam init writes one") from None
        return FlagValues()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return parse(text, where=path.name)


def parse(text: str, *, where: str) -> FlagValues:
    """Read the text of a file.

    >>> parse("limit: 10", where="imagebeam.yaml").given
    {'limit': 10}

    Raises:
        UserError: See :func:`read`.
    """
    if all(line.lstrip().startswith("#") or not line.strip() for line in text.splitlines()):
        return FlagValues()
    names, values = names_of(IN_FILE), dict[str, Any]()
    beam: list[str] = []
    for key, value in load_mapping(text, where).content.items():
        # YAML 1.1 reads a bare `yes` as true.
        name = "yes" if key is True else str(key)
        here = f"{name} in {where}"
        setting = names.get(name)
        if setting is None:
            beam += _beam_option(name, value, here, where)
        elif value is not None:
            warn_if_deprecated(setting, name, dashes="", where=f" in {where}")
            values[setting.name] = flag_values.read(setting, value, where=here)
    beam_flags.check(beam)
    return FlagValues(values, tuple(beam))


def _beam_option(name: str, value: object, here: str, where: str) -> list[str]:
    if name in CLASSIFY or name == "force":
        raise UserError(f"{name} cannot be set in {where}; use --{name} on the command line")
    if name in beam_flags.INSTEAD or not beam_flags.is_known(name):
        hint = suggestion(name, IN_FILE) or beam_flags.near(name).replace("--", "")
        raise UserError(f"unknown key {name} in {where}{hint or '; keys are flags of imagebeam classify --help'}")
    return [] if value is None else beam_flags.from_yaml(name, value, where=here)


def write(given: Mapping[str, Any], beam: Sequence[str] = ()) -> str:
    """Return the text of a file with these values, and every other key as a comment.

    Args:
        given: Values by flag name.
        beam: Beam options, as command-line arguments.
    """
    lines = [
        "# imagebeam.yaml: values of flags, under the same names. Flags on the command line override them.",
        "# Remove the # in front of a key to set it. Beam options (region …) can be set here, too.",
    ]
    for group in Group:
        of_group = [setting for setting in IN_FILE.values() if setting.group is group and not setting.replaced_by]
        if of_group:
            lines += ["", f"# --- {group.value} ---"]
        for setting in of_group:
            lines += ["", *textwrap.wrap(_comment(setting), 108, initial_indent="# ", subsequent_indent="# ")]
            value = given.get(setting.name)
            lines.append(f"{'# ' if value is None else ''}{setting.name}: {_yaml(setting, value)}")
    if beam:
        lines += ["", "# --- Beam ---", "", *_beam_lines(beam)]
    return "\n".join(lines) + "\n"


def _comment(setting: Setting) -> str:
    return f"{setting.help} One of {', '.join(setting.choices)}." if setting.choices else setting.help


def _yaml(setting: Setting, value: Any) -> str:
    """Return a value as YAML; an example where it is None."""
    if value is None:
        value = setting.default or flag_values.read(setting, setting.example, where=setting.name)
    scalar: object = value if isinstance(value, bool | int) else flag_values.to_text(setting, value)
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
