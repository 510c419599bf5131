"""Commands on click: options, help and completion are made from the declarations of the settings."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.layers import FlagValues, join_values, names_of, warn_if_deprecated
from imagebeam.pipeline.flags.setting import Flags, Group, Kind, Setting
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Longer lists of choices are part of the description.
_CHOICES_IN_HEAD: Final = 26
HELP: Final = ("--help", "-h")
#: Widest help; a terminal that is narrower decides.
CONTEXT: Final[Mapping[str, Any]] = {
    "max_content_width": 110,
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
        if self.setting.name == "task" and (names := _task_names(incomplete)):
            return [CompletionItem(name) for name in names]
        if self.setting.metavar in {"FILE", "DIR", "NAME|FILE"}:
            return [CompletionItem(incomplete, type="dir" if self.setting.metavar == "DIR" else "file")]
        choices = ("true", "false") if self.setting.kind is Kind.BOOLEAN else self.setting.choices
        return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]


def _task_names(incomplete: str) -> list[str]:
    """Return the tasks, shipped or in ``tasks/``, whose name starts with a text; none if a task file is invalid."""
    from imagebeam.transforms.tasks import catalog

    try:
        return [task.name for task in catalog.list_tasks(Path.cwd()) if task.name.startswith(incomplete)]
    except UserError:
        return []


class _Listing:
    """Help that lists settings under their headings.

    Attributes:
        shown: The settings.
    """

    shown: Flags

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Return the names of the help option.

        click keeps the option of the first context, so the names must not depend on the context.
        """
        return list(HELP)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings."""
        for group in Group:
            rows = [(head(flag), description(flag)) for flag in listed(self.shown, group)]
            if rows:
                with formatter.section(group.value):
                    formatter.write_dl(rows)


class FlagCommand(_Listing, click.Command):
    """A command whose options are settings.

    Args:
        name: Its name.
        flags: Its settings.
        run: Takes the command line, returns the exit code.
        summary: What it does, in one sentence.
        usage: Arguments, for ``--help``.
        examples: Command lines, for ``--help``.
        notes: Paragraphs at the end of ``--help``, with empty lines between.
        shown: Settings that ``--help`` lists; all of them when None.
        beam: Whether Beam's own options are accepted.
        words: Whether positional arguments are accepted.
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
        shown: Flags | None = None,
        beam: bool = False,
        words: bool = False,
    ) -> None:
        self.flags, self.beam, self.words, self.shown = flags, beam, words, flags if shown is None else shown
        self._names = names_of(flags)
        super().__init__(
            name,
            params=[
                click.Option([f"--{each}"], type=_Value(setting), multiple=True, hidden=each != setting.name)
                for each, setting in self._names.items()
            ],
            callback=run and (lambda line: run(line)),
            help=_with_examples(summary, examples),
            short_help=summary,
            options_metavar=usage,
            epilog=notes,
            context_settings={**CONTEXT, "ignore_unknown_options": True, "allow_extra_args": True},
        )

    def parse(self, argv: Sequence[str]) -> FlagValues:
        """Read a command line.

        Raises:
            UserError: Unknown flag, missing or invalid value.
        """
        with self.make_context(self.name, list(argv)) as ctx:
            line: FlagValues = ctx.params["line"]
            return line

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line into one argument of the callback, ``line``."""
        if ctx.resilient_parsing:  # completion
            return super().parse_args(ctx, args)
        super().parse_args(ctx, self._with_values(args, ctx.command_path))
        values: dict[str, list[Any]] = {}
        for name, found in ctx.params.items():
            if found:
                setting = self._names[name]
                warn_if_deprecated(setting, name)
                values.setdefault(setting.name, []).extend(found)
        given = {name: join_values(self.flags[name], found) for name, found in values.items()}
        ctx.params = {"line": FlagValues(given, *self._rest(ctx.args, ctx.command_path))}
        ctx.args = []
        return []

    def _with_values(self, args: Sequence[str], command: str) -> list[str]:
        """Return the arguments with every value behind an equals sign, as click's parser cannot guess where one is.

        Raises:
            UserError: A value is missing.
        """
        rest, found = list(args), []
        while rest:
            argument = rest.pop(0)
            setting = self._names.get(beam_flags.option_name(argument)) if argument.startswith("--") else None
            if setting is not None and "=" not in argument:
                if setting.kind is Kind.BOOLEAN:
                    argument += f"={rest.pop(0) if rest and rest[0].lower() in {'true', 'false'} else 'true'}"
                elif not rest or rest[0].startswith("--"):
                    raise UserError(f"--{setting.name} needs a value; for example --{setting.name}={setting.example}")
                else:
                    argument += f"={rest.pop(0)}"
            elif argument.startswith("-") and not argument.startswith("--") and argument not in HELP:
                raise UserError(f"{argument}: flags are written with two dashes; see {command} --help")
            found.append(argument)
        return found

    def _rest(self, args: Sequence[str], command: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return Beam's options and the words among the arguments that are not our flags.

        Raises:
            UserError: A flag that is neither ours nor Beam's, or a word where none is accepted.
        """
        for name in (beam_flags.option_name(argument) for argument in args if argument.startswith("--")):
            if name in beam_flags.INSTEAD:
                raise UserError(f"unknown flag --{name}; {beam_flags.INSTEAD[name]}")
            if not (self.beam and beam_flags.is_known(name)):
                # imagebeam's flags first: a typo is rarely meant as one of Beam's 150 options.
                hint = self._near(name) or (beam_flags.near(name) if self.beam else "")
                raise UserError(f"unknown flag --{name}{hint or f'; see {command} --help'}")
        beam, words = beam_flags.from_words(args)
        if words and not self.words:
            hint = self._near(beam_flags.option_name(words[0]))
            raise UserError(
                f"{command} does not accept the argument {words[0]!r}; flags are written --name=value{hint}"
            )
        return beam, words

    def _near(self, name: str) -> str:
        return suggestion(f"--{name}", [f"--{each}" for each, flag in self.flags.items() if not flag.replaced_by])


class CommandGroup(_Listing, click.Group):
    """Commands that are imported when they are called.

    Args:
        name: Its name.
        members: The commands, by name; those that are not imported yet as summary and place (``module:attribute``).
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
        members: Mapping[str, click.Command | tuple[str, str]],
        *,
        default: str = "",
        summary: str = "",
        usage: str = "COMMAND [--flag=value …]",
        examples: Sequence[str] = (),
        notes: str = "",
        shown: Flags | None = None,
        options: Sequence[click.Parameter] = (),
    ) -> None:
        self.members, self.default, self.shown = members, default, shown or {}
        super().__init__(
            name,
            help=_with_examples(summary, examples),
            short_help=summary,
            params=list(options),
            options_metavar="",
            subcommand_metavar=usage,
            epilog=notes,
            context_settings=dict(CONTEXT),
        )

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
        is_flag = not args or (args[0].startswith("-") and args[0] not in own)
        if is_flag and not ctx.resilient_parsing:
            if args and not self.default:
                raise UserError(
                    f"{args[0]}: the command comes first, as in {ctx.command_path} {next(iter(self.members))}"
                )
            args = [self.default or "--help", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a name.

        Raises:
            UserError: There is none.
        """
        if args[0] not in self.members and not ctx.resilient_parsing:
            name = f"{ctx.command_path} {args[0]}".removeprefix("imagebeam ")
            hint = suggestion(args[0], self.members) or f"; the commands are {', '.join(self.members)}"
            raise UserError(f"unknown command {name}{hint}")
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write commands and settings."""
        if not self.default:
            with formatter.section("Commands"):
                formatter.write_dl([
                    (name, each[0] if isinstance(each, tuple) else str(each.short_help))
                    for name, each in self.members.items()
                ])  # fmt: skip
        super().format_options(ctx, formatter)


def job_group(
    name: str,
    run: Callable[[str, FlagValues], int],
    jobs: Mapping[str, Flags],
    own: Flags,
    *,
    usage: str = "",
    **text: Any,
) -> CommandGroup:
    """Return a command about jobs: ``imagebeam plan [classify|embed]``.

    Args:
        name: Its name.
        run: Takes the name of the job and the command line, returns the exit code.
        jobs: Settings of each job that the command accepts, with the default job first; none where it accepts none,
            nor options of Beam.
        own: Settings of the command itself.
        usage: Arguments after the job, for ``--help``.
        text: Summary, examples and notes, see :class:`CommandGroup`.
    """
    return CommandGroup(
        name,
        {
            job: FlagCommand(
                job, {**flags, **own}, functools.partial(run, job), summary=text["summary"], beam=bool(flags)
            )
            for job, flags in jobs.items()
        },
        default=next(iter(jobs)),
        usage=f"[{'|'.join(jobs)}] {usage}[--flag=value …]",
        shown=own,
        **text,
    )


def _with_examples(summary: str, examples: Sequence[str]) -> str:
    # \b keeps lines as they are.
    return "\n".join([summary, "", "\b", "Examples:", *(f"  {each}" for each in examples)]) if examples else summary


def listed(flags: Flags, group: Group) -> list[Setting]:
    """Return the settings that are listed under a heading."""
    return [flag for flag in flags.values() if flag.group is group and not flag.replaced_by]


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
