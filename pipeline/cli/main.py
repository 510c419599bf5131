"""The command line: finds the command, and turns errors into one line and an exit code.

Beam takes two seconds to import, so every command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click
import click.shell_completion

from imagebeam.pipeline.console.streams import safe_standard_streams
from imagebeam.pipeline.console.text import printable
from imagebeam.pipeline.flags.command import CommandGroup
from imagebeam.transforms.core.errors import ExitCode, ImagebeamError, UserError

if TYPE_CHECKING:
    import importlib.metadata

#: Entry points of this group add commands: the local Google Cloud, which production code never imports.
PLUGINS: Final = "imagebeam.commands"
#: Loading a plugin for its summary would make --help slow.
_PLUGIN_SUMMARIES: Final = {"local": "Run a local Google Cloud, to try everything without an account."}
_COMPLETE: Final = "_IMAGEBEAM_COMPLETE"
_HERE: Final = "imagebeam.pipeline.cli.commands"
_DATAFLOW: Final = "imagebeam.pipeline.dataflow"

#: Name → summary and place of every command.
COMMANDS: Mapping[str, click.Command | tuple[str, str]] = {
    "init": ("Write imagebeam.yaml, a configuration file for flags.", "imagebeam.pipeline.cli.init:command"),
    "tasks": ("List, show, create and check tasks.", "imagebeam.pipeline.cli.tasks:command"),
    "preflight": ("Check everything a run needs, and print how to fix failures.", f"{_HERE}:preflight"),
    "plan": ("Estimate units, duration and cost of a run in each lane.", f"{_HERE}:plan"),
    "classify": ("Run Gemini on every image of a table.", f"{_HERE}:classify"),
    "embed": ("Compute an embedding of every image of a table.", f"{_HERE}:embed"),
    "search": ("Find images by text, by a picture, or by another image.", f"{_HERE}:search"),
    "export": ("Write answers to a file: CSV, Parquet, JSON Lines, GeoJSON or tuning data.", f"{_HERE}:export"),
    "batch": ("Run batch jobs on your own requests, and manage the batch jobs of all runs.", f"{_HERE}:batch"),
    "template": ("Build a Dataflow Flex Template and launch jobs from it.", f"{_DATAFLOW}.template_command:command"),
    "schedule": ("Print the commands that schedule a recurring run.", f"{_DATAFLOW}.schedule_command:command"),
    "subscribe": ("Link the Imagery Insights dataset to your project.", f"{_HERE}:subscribe"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments after ``imagebeam``; those of the process when None.

    Returns:
        The exit code, see :class:`~imagebeam.transforms.core.errors.ExitCode`.
    """
    arguments = sys.argv[1:] if argv is None else argv
    with safe_standard_streams():
        try:
            return _run(arguments)
        except ImagebeamError as error:
            if _wants_traceback(arguments):
                traceback.print_exc()
            sys.stderr.write(f"imagebeam: {printable(' '.join(str(error).split()))}\n")
            return error.exit_code
        except KeyboardInterrupt:
            sys.stderr.write("imagebeam: interrupted\n")
            return ExitCode.INTERRUPTED


def _run(argv: Sequence[str]) -> int:
    completes = os.environ.get(_COMPLETE)
    root = build_root(plugins=bool(completes) or not (argv and argv[0] in COMMANDS))
    if completes:
        return click.shell_completion.shell_complete(root, {}, "imagebeam", _COMPLETE, completes)
    name = argv[0] if argv else ""
    if name in _PLUGIN_SUMMARIES and name not in root.members:
        raise UserError(
            f"imagebeam {name} is not part of this installation, as in the image for Dataflow: run "
            f"`pip install '.[{name}]'` in a checkout of imagebeam"
        )
    try:
        with root.make_context("imagebeam", ["--help"] if argv[:1] == ["help"] else list(argv)) as context:
            code: int = root.invoke(context)
            return code
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code


def build_root(*, plugins: bool = False) -> CommandGroup:
    """Return the command ``imagebeam``, with or without the commands of other packages."""
    return CommandGroup(
        "imagebeam",
        {**COMMANDS, **(_plugins() if plugins else {})},
        summary="Run Gemini on every image of a BigQuery table.",
        examples=(
            "imagebeam local demo",
            "imagebeam tasks list",
            "imagebeam classify --task=image_quality --source=my_dataset.images",
        ),
        notes="imagebeam COMMAND --help describes a command.\n\n"
        f"Exit codes: {', '.join(f'{code} {code.meaning}' for code in ExitCode)}.\n\n"
        f'Shell completion: eval "$({_COMPLETE}=bash_source imagebeam)", or zsh_source, or fish_source.',
        options=[click.Option(["--version", "-V"], is_flag=True, is_eager=True, expose_value=False, callback=_version)],
    )


def _version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    if value:
        from imagebeam.pipeline.version import __version__

        sys.stdout.write(f"imagebeam {__version__}\n")
        ctx.exit()


def _plugins() -> dict[str, click.Command]:
    import importlib.metadata  # takes a while

    return {point.name: _PluginCommand(point) for point in importlib.metadata.entry_points(group=PLUGINS)}


class _PluginCommand(click.Command):
    """A command of another package, which reads its arguments itself."""

    def __init__(self, point: importlib.metadata.EntryPoint) -> None:
        summary = _PLUGIN_SUMMARIES.get(point.name, f"From {point.value.partition(':')[0]}.")
        super().__init__(point.name, callback=self._call, short_help=summary, add_help_option=False)
        self._point = point

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave the arguments as they are."""
        ctx.params = {"argv": args}
        return []

    def _call(self, argv: list[str]) -> int:
        point = self._point
        try:
            command: Callable[[list[str]], int] = point.load()
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("imagebeam"):
                raise
            raise UserError(
                f"imagebeam {point.name} needs the module {error.name}: pip install 'imagebeam[{point.name}]'"
            ) from error
        return command(argv)


def _wants_traceback(argv: Sequence[str]) -> bool:
    words = " ".join(argv).replace("-", "_").replace("=", " ")
    return "__log_level debug" in words or bool(os.environ.get("IMAGEBEAM_TRACE"))
