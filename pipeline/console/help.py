"""The text of ``--help``: grouped, and as wide as the terminal."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import Flag, Group, Kind

#: Longer lists of choices stand in the description.
_CHOICES_IN_HEAD: Final = 26
_METAVARS: Final = {
    Kind.TEXT: "TEXT",
    Kind.INTEGER: "N",
    Kind.NUMBER: "X",
    Kind.NAMES: "NAME,…",
    Kind.PAIRS: "NAME=PATH,…",
    Kind.BOX: "W,S,E,N",
    Kind.CIRCLE: "LAT,LNG,M",
    Kind.TIME: "TIME",
}


def width() -> int:
    """Columns to write in: the terminal's, at least 60 and at most 110; 80 where there is none."""
    return max(60, min(110, shutil.get_terminal_size((80, 24)).columns))


def flags_help(flags: Sequence[Flag], columns: int) -> list[str]:
    """Lines that describe the flags, under their headings."""
    lines: list[str] = []
    for group in Group:
        of_group = {_head(flag): _description(flag) for flag in flags if flag.group is group}
        if of_group:
            lines += ["", f"{group.value}:", *table(of_group, columns)]
    return lines


def table(rows: Mapping[str, str], columns: int) -> list[str]:
    """Two columns: names on the left, wrapped text on the right."""
    left = min(max(len(name) for name in rows) + 4, columns // 3)
    lines: list[str] = []
    for name, text in rows.items():
        wrapped = textwrap.wrap(text, columns - left) or [""]
        head = f"  {name}"
        if len(head) + 2 > left:
            lines.append(head)
        else:
            lines.append(f"{head:<{left}}{wrapped.pop(0)}".rstrip())
        lines += [" " * left + line for line in wrapped]
    return lines


def _head(flag: Flag) -> str:
    if flag.kind is Kind.BOOLEAN:
        return f"--{flag.name}"
    choices = "|".join(flag.choices)
    return f"--{flag.name}={choices if 0 < len(choices) < _CHOICES_IN_HEAD else _METAVARS[flag.kind]}"


def _description(flag: Flag) -> str:
    parts = [flag.help]
    if len("|".join(flag.choices)) >= _CHOICES_IN_HEAD:
        parts.append(f"One of {', '.join(flag.choices)}.")
    if flag.default is not None and flag.default != () and flag.default is not False:
        parts.append(f"Default {flag_values.to_text(flag, flag.default)}.")
    return " ".join(parts)
