"""Beam options that imagebeam passes to Beam, by runner.

Beam drops unknown options with a warning, and accepts many that have no effect on a run. Here both are errors.
Importing Beam takes about two seconds, so it is imported only for flags that imagebeam does not declare.
"""

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: What to use instead of a Beam option that an imagebeam command replaces.
INSTEAD: Final[Mapping[str, str]] = {
    "dry_run": "use imagebeam plan, which estimates a run without processing it",
}

_COMMON: Final = ("TypeOptions", "ProfilingOptions")
#: The options that a runner uses, by name or by their class.
_USED: Final[Mapping[str, Sequence[str]]] = {
    "FnApiRunner": (
        *(*_COMMON, "DirectOptions", "environment_type", "environment_config", "environment_option"),
        *("environment_options", "experiment", "experiments"),
    ),
    "PortableRunner": (
        *(*_COMMON, "PortableOptions", "JobServerOptions", "FlinkRunnerOptions", "SparkRunnerOptions"),
        *("PrismRunnerOptions", "SetupOptions", "DebugOptions", "job_name", "default_sdk_harness_log_level"),
        "sdk_harness_log_level_overrides",
    ),
    "DataflowRunner": (
        *(*_COMMON, "GoogleCloudOptions", "WorkerOptions", "DebugOptions", "SetupOptions"),
        *("resource_hint", "resource_hints"),
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (a Beam option)")


def is_known(name: str) -> bool:
    """Return whether any runner uses the Beam option of this name (snake_case, without dashes)."""
    return name in names()


def names() -> frozenset[str]:
    """Return the names of the Beam options that some runner uses."""
    return frozenset().union(*_names().values())


def near(name: str) -> str:
    """Return a suggestion for an unknown flag: the Beam option with a similar name; empty for none."""
    return suggestion(f"--{name}", [f"--{other}" for other in sorted(names())])


def takes_value(name: str) -> bool:
    """Return whether a value follows a Beam option; otherwise it is a switch."""
    return _parser()[1][name].nargs != 0


def switch(name: str, *, on: bool) -> list[str]:
    """Return a switch as a Beam argument; off is the negative option if there is one (``--no_use_public_ips``)."""
    if on:
        return [f"--{name}"]
    return [f"--no_{name}"] if f"no_{name}" in _parser()[1] else []


def from_yaml(name: str, value: object, *, where: str) -> list[str]:
    """Return a Beam option of a file as arguments: a switch takes true or false, a list repeats the option.

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


def from_words(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the Beam options among arguments of a command line, and the words that are not options.

    Raises:
        UserError: A missing value, or one that Beam rejects.
    """
    rest = list(words)
    found: list[str] = []
    others: list[str] = []
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            others.append(argument)
            continue
        name, (_, equals, text) = option_name(argument), argument.partition("=")
        if not takes_value(name):
            # Templates pass every value as text, so a switch may come as --name=true.
            if equals and text.lower() not in {"true", "false"}:
                raise UserError(f"--{name} takes true or false, not {text!r} (a Beam option)")
            found += switch(name, on=not equals or text.lower() == "true")
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value (a Beam option)")
            text = rest.pop(0)
        found.append(f"--{name}={text}")
    check(found)
    return tuple(found), tuple(others)


def check(arguments: Sequence[str]) -> None:
    """Check values with Beam's own parser.

    Raises:
        UserError: A value that Beam rejects, such as ``--num_workers=many``.
    """
    if arguments:
        read(arguments)


def check_runner(arguments: Sequence[str], runner: str) -> None:
    """Check that a runner uses every option.

    Raises:
        UserError: It ignores one; names the runner that uses it.
    """
    for argument in arguments:
        name = option_name(argument)
        if name not in _names()[runner]:
            users = [other for other in reversed([*_USED]) if name in _names()[other]]
            raise UserError(f"--{name} needs --runner={users[0]}; this run uses {runner}")


def for_runner(arguments: Sequence[str], runner: str) -> tuple[str, ...]:
    """Return the options that a runner uses."""
    return tuple(argument for argument in arguments if option_name(argument) in _names()[runner])


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments as Beam does: one attribute per option, with Beam's defaults.

    Raises:
        UserError: See :func:`check`.
    """
    return _parser()[0].parse_args(list(arguments))


def option_name(argument: str) -> str:
    """Return the name of an option in snake_case.

    >>> option_name("--temp-location=gs://my-bucket/temp")
    'temp_location'
    """
    return argument.removeprefix("--").partition("=")[0].replace("-", "_")


@functools.cache
def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.Action]]:
    """Return a parser of all Beam options, and its actions by name."""
    parser = _Parser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in _option_classes().values():
        options._add_argparse_args(parser)
    return parser, {option_name(option): action for action in parser._actions for option in action.option_strings}


@functools.cache
def _names() -> Mapping[str, frozenset[str]]:
    """Return the names of the options that each runner uses."""
    names = {}
    for runner, used in _USED.items():
        parser = _Parser(add_help=False, conflict_handler="resolve")
        for each in used:
            if each in _option_classes():
                _option_classes()[each]._add_argparse_args(parser)
            else:
                parser.add_argument(f"--{each}")
        names[runner] = frozenset(option_name(text) for action in parser._actions for text in action.option_strings)
    return names


@functools.cache
def _option_classes() -> Mapping[str, Any]:
    """Return the classes that declare Beam's own options, by name; a user's program may have others."""
    from apache_beam.options.pipeline_options import PipelineOptions

    return {
        each.__name__: each
        for each in _subclasses(PipelineOptions)
        if each.__module__.startswith("apache_beam.") and "_add_argparse_args" in vars(each)
    }


def _subclasses(cls: Any) -> list[Any]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]
