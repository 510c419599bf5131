"""Commands on click: options, help and completion are made from the declarations of the settings."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.layers import FlagValues, find_setting, join_values
from imagebeam.pipeline.flags.setting import Flags, Group, Kind, Setting
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Longer lists of choices are part of the description.
_CHOICES_IN_HEAD: Final = 26
HELP: Final = ("--help", "-h")
#: Widest help; a terminal that is narrower decides.
CONTEXT: Final[Mapping[str, Any]] = {
    "max_content_width": 110,
    "help_option_names": list(HELP),
    "token_normalize_func": lambda name: name.replace("-", "_"),
}


class _Value(click.ParamType[Any]):
    """Type of a setting's value."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.name = setting, setting.metavar or "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the value."""
        return flag_values.read(self.setting, value, where=f"--{self.setting.name}")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return choices, or let the shell complete the name of a file."""
        if self.setting.metavar in {"FILE", "DIR", "NAME|FILE"}:
            return [CompletionItem(incomplete, type="dir" if self.setting.metavar == "DIR" else "file")]
        choices = ("true", "false") if self.setting.kind is Kind.BOOLEAN else self.setting.choices
        return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]


class _Sections:
    """Help text of a command: usage, examples, settings under headings, notes.

    Attributes:
        whole_name: Name with ``imagebeam`` in front.
        usage: Arguments.
        examples: Command lines.
        notes: Paragraphs at the end, with empty lines between.
        shown: Settings that are listed.
    """

    whole_name: str
    usage: str
    examples: Sequence[str]
    notes: str
    shown: Flags

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first lines of ``--help``."""
        formatter.write_usage(self.whole_name, self.usage)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples and settings."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{example}\n")
        for group in Group:
            of_group = [flag for flag in self.shown.values() if flag.group is group and not flag.replaced_by]
            if of_group:
                with formatter.section(group.value):
                    formatter.write_dl([(head(flag), description(flag)) for flag in of_group])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the notes."""
        for note in self.notes.split("\n\n") if self.notes else ():
            formatter.write_paragraph()
            formatter.write_text(note)


class FlagCommand(_Sections, click.Command):
    """A command whose options are settings.

    Args:
        name: Whole name: ``imagebeam classify``.
        flags: Its settings.
        run: Takes the command line, returns the exit code.
        summary: What it does, in one sentence.
        usage: Arguments, for ``--help``.
        examples: Command lines, for ``--help``.
        notes: Paragraphs at the end of ``--help``, with empty lines between.
        beam: Whether Beam's own options are accepted.
        words: Whether arguments that are not flags are accepted.
    """

    def __init__(
        self,
        name: str,
        flags: Flags,
        run: Callable[[FlagValues], int] | None = None,
        *,
        summary: str = "",
        usage: str = "[--flag=value …]",
        examples: Sequence[str] = (),
        notes: str = "",
        beam: bool = False,
        words: bool = False,
    ) -> None:
        options = [
            click.Option([f"--{each}"], type=_Value(setting), multiple=True, hidden=each in setting.aliases)
            for setting in flags.values()
            for each in (setting.name, *setting.aliases)
        ]
        super().__init__(
            name.rpartition(" ")[2],
            params=list(options),
            callback=None if run is None else lambda line: run(line),
            help=summary,
            context_settings={**CONTEXT, "ignore_unknown_options": True, "allow_extra_args": True},
        )
        self.whole_name, self.flags, self.beam, self.words = name, flags, beam, words
        self.usage, self.examples, self.notes, self.shown = usage, examples, notes, flags
        self._known = {each: setting for setting in flags.values() for each in (setting.name, *setting.aliases)}

    def parse(self, argv: Sequence[str]) -> FlagValues:
        """Read a command line.

        Raises:
            UserError: Unknown flag, missing or invalid value.
        """
        with self.make_context(self.whole_name, list(argv)) as ctx:
            line: FlagValues = ctx.params["line"]
            return line

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line into one argument of the callback, ``line``."""
        if ctx.resilient_parsing:  # completion
            return super().parse_args(ctx, args)
        super().parse_args(ctx, self._with_values(args))
        values: dict[str, list[Any]] = {}
        for name, found in ctx.params.items():
            if found and (setting := find_setting(name, self.flags)) is not None:
                values.setdefault(setting.name, []).extend(found)
        given = {name: join_values(self.flags[name], found) for name, found in values.items()}
        beam, words = self._rest(ctx.args)
        ctx.args, ctx.params = [], {"line": FlagValues(given, beam, words)}
        return []

    def _with_values(self, args: Sequence[str]) -> list[str]:
        """Return the arguments with every value behind an equals sign, as click's parser cannot guess where one is.

        Raises:
            UserError: A value is missing.
        """
        rest, found = list(args), []
        while rest:
            argument = rest.pop(0)
            setting = self._known.get(beam_flags.option_name(argument)) if argument.startswith("--") else None
            if setting is not None and "=" not in argument:
                if setting.kind is Kind.BOOLEAN:
                    argument += f"={rest.pop(0) if rest and rest[0].lower() in {'true', 'false'} else 'true'}"
                elif not rest or rest[0].startswith("--"):
                    raise UserError(f"--{setting.name} needs a value; for example --{setting.name}={setting.example}")
                else:
                    argument += f"={rest.pop(0)}"
            elif argument.startswith("-") and not argument.startswith("--") and argument not in HELP:
                raise UserError(f"{argument}: flags are written with two dashes; see {self.whole_name} --help")
            found.append(argument)
        return found

    def _rest(self, args: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return Beam's options and the words among the arguments that are not our flags.

        Raises:
            UserError: A flag that is neither ours nor Beam's, or a word where none is accepted.
        """
        options = [beam_flags.option_name(argument) for argument in args if argument.startswith("--")]
        for name in options:
            if name in beam_flags.INSTEAD:
                raise UserError(f"unknown flag --{name}; {beam_flags.INSTEAD[name]}")
            if not (self.beam and beam_flags.is_known(name)):
                # Ours first: a mistyped name is rarely that of one of Beam's 150 options.
                hint = self._near(name) or (beam_flags.near(name) if self.beam else "")
                raise UserError(f"unknown flag --{name}{hint or f'; see {self.whole_name} --help'}")
        beam, words = beam_flags.from_words(args) if options else ((), tuple(args))
        if words and not self.words:
            hint = self._near(beam_flags.option_name(words[0]))
            raise UserError(f"{self.whole_name} takes no {words[0]!r}; flags are written --name=value{hint}")
        return beam, words

    def _near(self, name: str) -> str:
        return suggestion(f"--{name}", [f"--{each}" for each, flag in self.flags.items() if not flag.replaced_by])


class CommandGroup(_Sections, click.Group):
    """Commands that are imported when they are called.

    Args:
        name: Whole name: ``imagebeam batch``.
        commands: The commands, by name; those that are not imported yet as summary and place (``module:attribute``).
        default: Command that runs when none is named.
        summary: What the commands are for, in one sentence.
        usage: Arguments, for ``--help``.
        examples: Command lines, for ``--help``.
        notes: Paragraphs at the end of ``--help``, with empty lines between.
        shown: Settings that ``--help`` lists.
        options: Options of the group itself.
    """

    def __init__(
        self,
        name: str,
        commands: Mapping[str, click.Command | tuple[str, str]],
        *,
        default: str = "",
        summary: str = "",
        usage: str = "COMMAND [--flag=value …]",
        examples: Sequence[str] = (),
        notes: str = "",
        shown: Flags | None = None,
        options: Sequence[click.Parameter] = (),
    ) -> None:
        super().__init__(name.rpartition(" ")[2], help=summary, params=list(options), context_settings=dict(CONTEXT))
        self.whole_name, self.members, self.default = name, commands, default
        self.usage, self.examples, self.notes, self.shown = usage, examples, notes, shown or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        found = self.members.get(cmd_name)
        if not isinstance(found, tuple):
            return found
        module, _, attribute = found[1].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show help without arguments; run the default command if none is named."""
        own = {option for param in self.get_params(ctx) for option in param.opts}
        if not ctx.resilient_parsing:
            is_flag = not args or (args[0].startswith("-") and args[0] not in own)
            if self.default and is_flag:
                args = [self.default, *args]
            elif not args:
                args = ["--help"]
            elif is_flag:
                raise UserError(
                    f"{args[0]}: the command comes first, as in {self.whole_name} {next(iter(self.members))}"
                )
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a name.

        Raises:
            UserError: There is none.
        """
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            name = f"{self.whole_name} {args[0]}".removeprefix("imagebeam ")
            known = self.list_commands(ctx)
            hint = suggestion(args[0], known) or f"; the commands are {', '.join(known)}"
            raise UserError(f"unknown command {name}{hint}")
        return args[0], command, args[1:]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write commands, examples and settings."""
        if not self.default:
            summaries = {name: each[0] if isinstance(each, tuple) else each.help for name, each in self.members.items()}
            with formatter.section("Commands"):
                formatter.write_dl([(name, summary or "") for name, summary in summaries.items()])
        super().format_options(ctx, formatter)


def job_group(
    name: str,
    run: Callable[[str, FlagValues], int],
    jobs: Mapping[str, Flags],
    *,
    own: Flags,
    summary: str,
    usage: str = "",
    examples: Sequence[str] = (),
    notes: str = "",
    beam: bool = True,
) -> CommandGroup:
    """Return a command about jobs: ``imagebeam plan [classify|embed]``.

    Args:
        name: Whole name.
        run: Takes the name of the job and the command line, returns the exit code.
        jobs: Settings of each job that the command accepts; the first job is the default.
        own: Settings of the command itself.
        summary: What it does, in one sentence.
        usage: Arguments after the job, for ``--help``.
        examples: Command lines, for ``--help``.
        notes: Paragraphs at the end of ``--help``, with empty lines between.
        beam: Whether Beam's own options are accepted.
    """
    return CommandGroup(
        name,
        {
            job: FlagCommand(
                f"{name} {job}",
                {**flags, **own},
                functools.partial(run, job),
                summary=summary,
                beam=beam,
            )
            for job, flags in jobs.items()
        },
        default=next(iter(jobs)),
        summary=summary,
        usage=f"[{'|'.join(jobs)}] {usage}[--flag=value …]",
        examples=examples,
        notes=f"{notes}\n\n{name} {'|'.join(jobs)} --help lists all flags.".strip() if any(jobs.values()) else notes,
        shown=own,
    )


def head(flag: Setting) -> str:
    """Return the left column of a setting in ``--help``."""
    choices = "|".join(flag.choices)
    value = choices if 0 < len(choices) < _CHOICES_IN_HEAD else flag.metavar
    return f"--{flag.name}" if flag.kind is Kind.BOOLEAN else f"--{flag.name}={value}"


def description(flag: Setting) -> str:
    """Return the right column of a setting in ``--help``: meaning, choices, default."""
    default = default_text(flag)
    return f"{meaning(flag)} Default: {default}." if default else meaning(flag)


def meaning(flag: Setting) -> str:
    """Return the help text of a setting, with its choices if they are not in the left column."""
    is_long = len("|".join(flag.choices)) >= _CHOICES_IN_HEAD
    return f"{flag.help} One of {', '.join(flag.choices)}." if is_long else flag.help


def default_text(flag: Setting) -> str:
    """Return the default of a setting; empty for none."""
    if flag.computed or flag.default in (None, (), {}, False):
        return flag.computed
    text = flag_values.to_text(flag, flag.default)
    return repr(text) if " " in text else text
