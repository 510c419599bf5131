"""The reference of all commands and flags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from docs.generate.markdown import NOTICE, table
from imagebeam.pipeline.cli.main import build_root
from imagebeam.pipeline.dataflow.template_metadata import NO_PARAMETERS
from imagebeam.pipeline.flags.classify import CLASSIFY, IN_FILE
from imagebeam.pipeline.flags.command import CommandGroup, FlagCommand, default_text, head, listed, meaning
from imagebeam.pipeline.flags.layers import names_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.planning.settings import PLAN
from imagebeam.pipeline.run.embed_settings import JOBS

_INTRODUCTION: Final = f"""\
# Commands and flags

{NOTICE}
Write a flag as `--name=value` or `--name value`; `-` is accepted for `_`, and `--name` alone sets a boolean. *File*
marks flags that `imagebeam.yaml` may contain, under the same name. *Template* marks parameters of a Flex Template.
"""


def build_page() -> str:
    """Return the page as Markdown."""
    deprecated = [
        [f"`--{name}`", f"`--{flag.replaced_by or flag.name}`"]
        for name, flag in names_of({**CLASSIFY, **PLAN}).items()
        if flag.replaced_by or name != flag.name
    ]
    root = build_root()
    sections = _sections(root, click.Context(root, info_name="imagebeam"))
    names = "\n## Deprecated names\n\nThese still work, with a warning.\n"
    return "\n".join([_INTRODUCTION, *sections, names, table(["Name", "Use"], deprecated)])


def _sections(group: CommandGroup, context: click.Context) -> Iterator[str]:
    """Yield the sections of all commands of a group."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = click.Context(command or group, info_name=name, parent=context)
        if isinstance(command, CommandGroup) and not command.default:
            yield from _sections(command, inner)
        elif isinstance(command, FlagCommand | CommandGroup):
            usage = " ".join(command.collect_usage_pieces(inner))
            yield f"\n## {inner.command_path}\n\n{command.short_help}\n\n```\n{inner.command_path} {usage}\n```"
            if command.epilog:
                yield f"\n{command.epilog}"
            yield from _tables(command.shown)


def _tables(flags: Flags) -> Iterator[str]:
    for group in Group:
        rows = [_row(flag) for flag in listed(flags, group)]
        if rows:
            yield f"\n### {group}\n"
            yield table(["Flag", "Meaning", "Default", "File", "Template"], rows).rstrip()


def _row(flag: Setting) -> list[str]:
    of_run = flag in (*JOBS["classify"].flags.values(), *JOBS["embed"].flags.values())
    marks = (bool(flag.in_file) and flag.name in IN_FILE, of_run and flag.name not in NO_PARAMETERS)
    return [f"`{head(flag)}`", meaning(flag), default_text(flag), *("yes" if mark else "" for mark in marks)]
