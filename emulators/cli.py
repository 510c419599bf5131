"""The command line of ``imagebeam local``, on click. Importing it is cheap; each command imports what it needs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from imagebeam.emulators.bigquery.result_text import FORMATS
from imagebeam.transforms.core.errors import ExitCode, ImagebeamError, UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Required modules of the extra ``[local]``.
REQUIRED_MODULES: Final = ("duckdb", "sqlglot", "numpy")
_CONTEXT: Final = {"max_content_width": 110, "help_option_names": ["--help", "-h"]}


class _Flag(click.Option):
    """A flag that is shown as in the other commands: ``--name=VALUE``.

    Args:
        name: Its name.
        help: Its meaning and default.
        metavar: Its value; None for a switch.
        read: Converts the text; None for text.
        argument: Name of the function's argument. Default: the name of the flag.
        more: Further arguments of click's option.
    """

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002  (click's name)
        *,
        metavar: str | None = None,
        read: Callable[[str], Any] | None = None,
        argument: str = "",
        **more: Any,
    ) -> None:
        self.head = f"--{name}" if metavar is None else f"--{name}={metavar}"
        more |= {"is_flag": True} if metavar is None else {"metavar": metavar}
        callback = None if read is None else (lambda ctx, _, text: _read(ctx, name, text, read))
        super().__init__([f"--{name}", argument or name], help=help, callback=callback, **more)


class _Command(click.Command):
    """A command whose errors are one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            UserError: Unknown flag, missing value or superfluous argument.
        """
        try:
            super().parse_args(ctx, args)
        except click.NoSuchOption as problem:
            flags = [flag for param in self.get_params(ctx) for flag in param.opts]
            hint = suggestion(problem.option_name, flags)
            raise UserError(f"unknown flag {problem.option_name}{hint}; {ctx.command_path} --help") from None
        except click.UsageError as problem:
            raise UserError(f"{problem.format_message().rstrip('.')}; see {ctx.command_path} --help") from None
        if ctx.args:
            hint = ": put the SQL statement in quotes" if self.name == "sql" else ""
            raise UserError(f"unexpected argument {ctx.args[0]!r}{hint}; see {ctx.command_path} --help")
        return []

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags."""
        with formatter.section("Flags"):
            formatter.write_dl([(param.head, str(param.help)) for param in self.params if isinstance(param, _Flag)])


class _Group(click.Group):
    """Commands whose errors are one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            UserError: No command, an unknown one, or a flag in front of it.
        """
        known = ", ".join(self.commands)
        if not args:
            raise UserError(f"a command is required: {known}; see {ctx.command_path} --help")
        if args[0].startswith("-") and args[0] not in ctx.help_option_names:
            raise UserError(f"{args[0]}: the command comes first, as in {ctx.command_path} up")
        if not args[0].startswith("-") and args[0] not in self.commands:
            hint = suggestion(args[0], list(self.commands))
            raise UserError(f"unknown command local {args[0]}{hint}: use {known}")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, str(each.short_help)) for name, each in self.commands.items()])


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``imagebeam local``.

    Args:
        argv: Arguments after ``local``; those of the process when None.

    Returns:
        The exit code: 0, 2 for invalid input, 1 if the local cloud fails.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with command.make_context("imagebeam local", arguments) as context:
            code: int = command.invoke(context)
            return code
    except click.exceptions.Exit as done:  # --help
        return done.exit_code
    except ImagebeamError as problem:
        return _print_error(str(problem), problem.exit_code)
    except RuntimeError as problem:
        return _print_error(str(problem), ExitCode.FAILED)


def _read(ctx: click.Context, name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError as problem:
        raise UserError(f"--{name}: {problem}; see {ctx.command_path} --help") from None


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise ValueError(f"invalid port {text!r} (0 to 65535)")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"invalid seed {text!r} (an integer ≥ 0)")
    return int(text)


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"invalid choice: {text!r} (choose from {', '.join(FORMATS)})")
    return text


def _dir() -> _Flag:
    return _Flag("dir", "State directory. Default: .local.", metavar="DIR", read=Path, default=".local")


def _random_seed() -> _Flag:
    return _Flag("seed", "Random seed. Default: 0.", metavar="N", read=_seed, default="0")


def _run(name: str, **values: Any) -> int:
    """Run a command of :mod:`imagebeam.emulators.commands`.

    Raises:
        UserError: A module of the extra ``[local]`` is missing.
    """
    missing = [module for module in REQUIRED_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"imagebeam local requires {', '.join(missing)}: run pip install 'imagebeam[local]'")
    from imagebeam.emulators import commands

    code: int = getattr(commands, name)(values.pop("dir"), **values)
    return code


def _command(
    name: str, summary: str, flags: Sequence[click.Parameter], *, function: str = "", usage: str = "", text: str = ""
) -> _Command:
    return _Command(
        name,
        params=list(flags),
        callback=lambda **values: _run(function or name, **values),
        help=f"{summary}\n\n{text}",
        short_help=summary,
        options_metavar=f"{usage}[--flag=value …]",
        context_settings={**_CONTEXT, "allow_extra_args": True},
    )


command: Final = _Group(
    "local",
    help="Run a local Google Cloud, to try everything without an account.\n\n"
    "\b\nExamples:\n"
    "  imagebeam local up --detach\n"
    '  eval "$(imagebeam local env)"\n'
    "  imagebeam local sql 'SELECT COUNT(*) FROM imagery_insights___us.latest_observations'\n"
    "  imagebeam local down",
    options_metavar="",
    subcommand_metavar="COMMAND [--flag=value …]",
    context_settings=_CONTEXT,
    commands=[
        _command(
            "up",
            "Start a local cloud. The first start loads the sample dataset.",
            (
                _Flag("detach", "Return when it is ready, and leave it running in the background."),
                _Flag("port", "Port on 127.0.0.1. Default: a free one.", metavar="N", read=_port, default="0"),
                _Flag("force", "Start even if real credentials are present."),
                _random_seed(),
                _dir(),
            ),
        ),
        _command(
            "env",
            "Print the environment variables that direct Google clients to it.",
            (_dir(),),
            function="print_environment",
            text='Use them with: eval "$(imagebeam local env)"',
        ),
        _command("down", "Stop it. Its tables and files are kept.", (_dir(),)),
        _command(
            "sql",
            "Query its tables, also while it is stopped.",
            (
                click.Argument(["query"], metavar="QUERY"),
                _Flag("format", f"One of {', '.join(FORMATS)}. Default: table.", metavar="FORMAT", read=_format,
                      default="table", argument="form"),
                _dir(),
            ),
        ),
        _command("demo", "Run the pipeline three times on a local cloud.", (_random_seed(), _dir())),
    ],
)  # fmt: skip


def _print_error(text: str, code: int) -> int:
    sys.stderr.write(f"imagebeam: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
