"""Reads a command line against the table of flags. Unknown flags are errors; Beam's own go through."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import Flag, Kind
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion


@dataclasses.dataclass(frozen=True, slots=True)
class Arguments:
    """What a command line says.

    Attributes:
        values: Values of our flags that were given, by name.
        beam: Beam's own options, as Beam takes them.
        words: What is no flag, in order.
    """

    values: Mapping[str, Any]
    beam: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def read(
    argv: Sequence[str], flags: Mapping[str, Flag], *, command: str, words: bool = False, beam: bool = True
) -> Arguments:
    """Reads the arguments of a command.

    ``--name=value``, ``--name value``, and ``--name`` alone for true or false; ``-`` is as good as ``_``. A
    value that begins with two dashes needs the ``=``.

    Args:
        argv: The arguments after the command.
        flags: The command's flags, by name.
        command: Its name, for messages: ``imagebeam classify``.
        words: Whether it takes arguments that are no flags.
        beam: Whether Beam's own options go through.

    Raises:
        UserError: Unknown flag, missing or bad value.
    """
    values: dict[str, Any] = {}
    through: list[str] = []
    others: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("-") and not argument.startswith("--"):
            raise UserError(f"{argument}: flags are written with two dashes; see {command} --help")
        if not argument.startswith("--"):
            if not words:
                hint = _near(_snake(argument), flags)
                raise UserError(f"{command} takes no {argument!r}; flags are written --name=value{hint}")
            others.append(argument)
            continue
        written, equals, text = argument.removeprefix("--").partition("=")
        name, given = _snake(written), text if equals else None
        flag = flags.get(name)
        if flag is None:
            through += _beam_arguments(name, given, rest, flags, command=command, beam=beam)
            continue
        value = _value(flag, given, rest)
        values[name] = _joined(flag, values[name], value) if flag.repeatable and name in values else value
    beam_flags.check(through)
    return Arguments(values, tuple(through), tuple(others))


def _value(flag: Flag, text: str | None, rest: list[str]) -> Any:
    if text is None and flag.kind is Kind.BOOLEAN:
        text = rest.pop(0) if rest and rest[0].lower() in {"true", "false"} else "true"
    if text is None:
        if not rest or rest[0].startswith("--"):
            raise UserError(f"--{flag.name} needs a value; for example --{flag.name}={flag.example}")
        text = rest.pop(0)
    return flag_values.from_text(flag, text, where=f"--{flag.name}")


def _joined(flag: Flag, first: Any, second: Any) -> Any:
    if flag.kind is not Kind.PAIRS:
        return tuple(dict.fromkeys((*first, *second)))
    for name in first.keys() & second.keys():
        raise UserError(f"--{flag.name} gives {name} twice: {first[name]!r} and {second[name]!r}")
    return {**first, **second}


def _beam_arguments(
    name: str, text: str | None, rest: list[str], flags: Mapping[str, Flag], *, command: str, beam: bool
) -> list[str]:
    if not (beam and beam_flags.is_beam_option(name)):
        # Ours first: a person who mistypes one rarely means the distant relative among Beam's 150.
        hint = _near(name, flags) or _near(name, beam_flags.names() if beam else ())
        raise UserError(f"unknown flag --{name}{hint or f'; see {command} --help'}")
    if not beam_flags.takes_value(name):
        # Templates pass every value as text, so a switch may come as --name=true.
        if text is None or text.lower() in {"true", "false"}:
            return beam_flags.switch(name, on=text is None or text.lower() == "true")
        raise UserError(f"--{name} takes true or false, not {text!r} (an option of Beam)")
    if text is None:
        if not rest or rest[0].startswith("--"):
            raise UserError(f"--{name} needs a value (an option of Beam)")
        text = rest.pop(0)
    return [f"--{name}={text}"]


def _snake(written: str) -> str:
    return written.partition("=")[0].replace("-", "_")


def _near(name: str, known: Iterable[str]) -> str:
    return suggestion(f"--{name}", [f"--{other}" for other in known])
