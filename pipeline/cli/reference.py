"""The reference of all flags, made from their declarations: ``python -m imagebeam.pipeline.cli.reference --write``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from imagebeam.pipeline.cli.main import build_root
from imagebeam.pipeline.dataflow.template_metadata import NO_PARAMETERS
from imagebeam.pipeline.flags.classify import CLASSIFY, IN_FILE
from imagebeam.pipeline.flags.command import CommandGroup, FlagCommand, default_text, head, meaning
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.plan.settings import PLAN
from imagebeam.pipeline.run.embed_settings import DEFAULT_JOB, JOBS

PAGE: Final = "docs/reference/flags.md"
_INTRODUCTION: Final = """\
# Flags

Made from the declarations in the code: `python -m imagebeam.pipeline.cli.reference --write`. Do not edit.

Write a flag as `--name=value` or `--name value`; `-` is accepted for `_`, and `--name` alone sets a boolean. *File*
marks flags that `imagebeam.yaml` may contain, under the same name. *Template* marks parameters of a Flex Template. In
Python, fields of the settings classes have the same names.
"""


def build_page() -> str:
    """Return the page as Markdown."""
    root = build_root()
    parts = [_INTRODUCTION, *_sections(root), "## Deprecated names\n", *_deprecated()]
    return "\n".join(parts) + "\n"


def _sections(group: CommandGroup) -> Iterator[str]:
    """Yield the sections of all commands of a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, CommandGroup) and not command.default:
            yield from _sections(command)
        elif isinstance(command, FlagCommand | CommandGroup):
            yield f"## {command.whole_name}\n\n{command.help}\n\n```\n{command.whole_name} {command.usage}\n```\n"
            runs_job = command.whole_name in {f"imagebeam {job}" for job in JOBS}
            shown, also = command.shown, ""
            if isinstance(command, CommandGroup):
                job = command.get_command(context, DEFAULT_JOB)
                if isinstance(job, FlagCommand) and CLASSIFY.keys() <= job.flags.keys():
                    also = " and ".join(f"`imagebeam {each}`" for each in JOBS)
            elif not runs_job and IN_FILE.keys() <= shown.keys():
                shown, also = {name: flag for name, flag in shown.items() if name not in IN_FILE}, "`imagebeam.yaml`"
            if also:
                yield f"Accepts all flags of {also}{', and:' if shown else '.'}\n"
            yield from _tables(shown, templates=runs_job)


def _tables(flags: Flags, *, templates: bool) -> Iterator[str]:
    for group in Group:
        rows = [
            _row(flag, templates=templates) for flag in flags.values() if flag.group is group and not flag.replaced_by
        ]
        if rows:
            template, line = (" Template |", " --- |") if templates else ("", "")
            yield f"### {group}\n"
            yield "\n".join(
                [f"| Flag | Meaning | Default | File |{template}", f"| --- | --- | --- | --- |{line}", *rows]
            )
            yield ""


def _row(flag: Setting, *, templates: bool) -> str:
    cells = [f"`{head(flag)}`", meaning(flag), default_text(flag)]
    cells.append(_mark(yes=bool(flag.in_file) and flag.name in IN_FILE))
    if templates:
        cells.append(_mark(yes=flag.name not in NO_PARAMETERS))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _mark(*, yes: bool) -> str:
    return "yes" if yes else ""


def _deprecated() -> Iterator[str]:
    yield "These still work, with a warning.\n\n| Name | Use |\n| --- | --- |"
    for flag in {**CLASSIFY, **PLAN}.values():
        if flag.replaced_by:
            yield f"| `--{flag.name}` | `--{flag.replaced_by}` |"
        yield from (f"| `--{alias}` | `--{flag.name}` |" for alias in flag.aliases)


def main() -> int:
    """Print the page; write it with ``--write``."""
    if sys.argv[1:] == ["--write"]:
        Path(PAGE).write_text(build_page(), encoding="utf-8")
    else:
        sys.stdout.write(build_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
