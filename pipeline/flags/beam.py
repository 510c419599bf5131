"""Beam's own options, so that an unknown flag is told from one that goes through to Beam.

Beam itself drops options that it doesn't know with a warning, and the job then runs with defaults. Here they
are errors. Importing Beam takes about two seconds, so it is imported when a flag is not ours, and only then.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from imagebeam.transforms.core.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (an option of Beam)")


def is_beam_option(name: str) -> bool:
    """Whether Beam knows an option of this name (snake_case, without dashes)."""
    return name in _actions()


def takes_value(name: str) -> bool:
    """Whether an option of Beam is followed by a value; else it is a switch."""
    return _actions()[name].nargs != 0


def switch(name: str, *, on: bool) -> list[str]:
    """A switch as Beam takes it. Off is its opposite where Beam has one: ``use_public_ips``, ``no_use_public_ips``."""
    if on:
        return [f"--{name}"]
    return [f"--no_{name}"] if is_beam_option(f"no_{name}") else []


def names() -> list[str]:
    """The names of all options of Beam."""
    return sorted(_actions())


def from_yaml(name: str, value: object, *, where: str) -> list[str]:
    """An option of Beam from a file, as arguments: a switch takes true or false, a list repeats the option.

    Raises:
        UserError: A switch has another value than true or false.
    """
    if not takes_value(name):
        if not isinstance(value, bool):
            raise UserError(f"{where} takes true or false, not {value!r}")
        return switch(name, on=value)
    if isinstance(value, list):
        return [argument for part in value for argument in from_yaml(name, part, where=where)]
    if isinstance(value, bool):
        value = str(value).lower()
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def check(arguments: list[str]) -> None:
    """Lets Beam's own parser look at the arguments.

    Raises:
        UserError: A value that Beam refuses, such as ``--num_workers=many``.
    """
    if arguments:
        read(arguments)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """What Beam reads in the arguments: one attribute per option, with Beam's defaults.

    Raises:
        UserError: See :func:`check`.
    """
    parser, _ = _parser()
    return parser.parse_args(list(arguments))


def _actions() -> dict[str, argparse.Action]:
    return _parser()[1]


@functools.cache
def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.Action]]:
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _Parser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in _subclasses(PipelineOptions):
        # Options that somebody's own program declares are not Beam's.
        if options.__module__.startswith("apache_beam.") and "_add_argparse_args" in vars(options):
            options._add_argparse_args(parser)
    actions = {
        option.removeprefix("--").replace("-", "_"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    return parser, actions


def _subclasses(cls: Any) -> list[Any]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]
