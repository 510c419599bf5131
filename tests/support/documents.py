"""Commands, links and headings in Markdown pages, and the environment to run commands in."""

import dataclasses
import os
import re
import textwrap

#: Comment that marks a command, or the block that it begins.
NEEDS_PROJECT = "# needs a project"
_BLOCK = r"^ *```.*?^ *```"

#: The environment without the variables of the make process that runs the tests.
NOT_UNDER_MAKE = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        text: The command line.
        needs_project: Whether the page marks it as one that the local cloud cannot run.
    """

    text: str
    needs_project: bool


def marked_commands(markdown: str) -> list[Command]:
    """Commands of the fenced blocks marked bash (each line) and console (lines after a dollar sign).

    A comment ``# needs a project`` marks the command on its line, or the whole block if it is the first line.
    """
    found = []
    for language, block in re.findall(r"^ *```(bash|console)\n(.*?)^ *```", markdown, re.MULTILINE | re.DOTALL):
        lines = textwrap.dedent(re.sub(r"\\\n\s*", "", block)).splitlines()
        whole = lines[0].strip() == NEEDS_PROJECT
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            text, _, comment = line.partition("  #")
            if text.strip() and not text.startswith("#"):
                found.append(Command(text.strip(), whole or f"#{comment}".strip() == NEEDS_PROJECT))
    return list(dict.fromkeys(found))


def commands(markdown: str) -> list[str]:
    """Texts of the commands of :func:`marked_commands`, each once."""
    return list(dict.fromkeys(command.text for command in marked_commands(markdown)))


def local_commands(markdown: str) -> list[str]:
    """Texts of the commands that run on the local cloud, in order."""
    return [command.text for command in marked_commands(markdown) if not command.needs_project]


def inline_commands(markdown: str) -> list[str]:
    """Commands of imagebeam that the text quotes whole: without placeholders in capitals or an ellipsis."""
    text = re.sub(_BLOCK, "", markdown, flags=re.MULTILINE | re.DOTALL)
    quoted = (" ".join(found.split()) for found in re.findall(r"`(imagebeam [a-z][^`]*)`", text))
    return [command for command in quoted if not re.search(r"[|…\[<]|\b[A-Z]{2,}\b", command)]


def links(markdown: str) -> list[str]:
    """Targets of links and images."""
    text = re.sub(_BLOCK, "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)


def anchors(markdown: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    text = re.sub(_BLOCK, "", markdown, flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names = (slug, *(f"{slug}-{number}" for number in range(1, 100)))
        found.add(next(name for name in names if name not in found))
    return found
