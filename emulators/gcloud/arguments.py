"""Arguments of the local ``gcloud``, read and rejected as gcloud does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

#: Flags that every command accepts.
_GLOBAL = ("project", "account", "verbosity", "format")
_GLOBAL_SWITCHES = ("quiet",)


class GcloudError(Exception):
    """An error of a command.

    Args:
        message: Error message.
        exit_code: 1 if the command failed, 2 for invalid arguments.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a command.

    Attributes:
        words: Positional arguments.
        flags: Values of each flag that was given, in order.
    """

    words: Sequence[str]
    flags: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str = "") -> str:
        """Return the last value of a flag."""
        return self.flags[name][-1] if name in self.flags else default

    def all(self, name: str) -> Sequence[str]:
        """Return all values of a flag."""
        return self.flags.get(name, ())


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """The arguments that a command accepts.

    Attributes:
        words: Minimum and maximum number of positional arguments.
        flags: Optional flags with a value.
        required: Required flags with a value.
        switches: Flags without a value.
        word: Name of the positional arguments.
    """

    words: tuple[int, int] = (0, 0)
    flags: Sequence[str] = ()
    required: Sequence[str] = ()
    switches: Sequence[str] = ()
    word: str = "SOURCE"

    def parse(self, arguments: Sequence[str]) -> Arguments:
        """Read the arguments behind the command.

        Raises:
            GcloudError: Unknown, missing or superfluous arguments.
        """
        rest, words, flags, unknown = list(arguments), [], dict[str, list[str]](), list[str]()
        while rest:
            argument = rest.pop(0)
            name, equals, value = argument.removeprefix("--").partition("=")
            if not argument.startswith("--"):
                words.append(argument)
            elif name in (*self.switches, *_GLOBAL_SWITCHES) and not equals:
                flags.setdefault(name, []).append("true")
            elif name not in (*self.flags, *self.required, *_GLOBAL):
                unknown.append(argument)
            elif not equals and (not rest or rest[0].startswith("--")):
                raise GcloudError(f"argument --{name}: expected one argument", exit_code=2)
            else:
                flags.setdefault(name, []).append(value if equals else rest.pop(0))
        least, most = self.words
        unknown += words[most:]
        if unknown:
            raise GcloudError("unrecognized arguments:\n  " + "\n  ".join(unknown), exit_code=2)
        missing = [f"--{name}" for name in self.required if name not in flags]
        missing += [self.word] if len(words) < least else []
        if missing:
            raise GcloudError(f"argument {' '.join(missing)}: Must be specified.", exit_code=2)
        return Arguments(words, flags)


def parse_list(text: str) -> list[str]:
    """Return the items of a list, in gcloud's syntax.

    >>> parse_list("a=1,b=2")
    ['a=1', 'b=2']
    >>> parse_list("^~^lanes=a,b~c")
    ['lanes=a,b', 'c']
    """
    if text.startswith("^") and (end := text.find("^", 1)) > 0:
        return text[end + 1 :].split(text[1:end])
    return text.split(",")
