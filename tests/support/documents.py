"""Commands in Markdown pages, and the environment to run them in."""

import os
import re

#: The environment without the variables of the make process that runs the tests.
NOT_UNDER_MAKE = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def commands(markdown: str) -> list[str]:
    """Commands of the fenced blocks marked bash (each line) and console (lines after a dollar sign)."""
    found = []
    for language, block in re.findall(r"^```(bash|console)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        found += [line.partition("  #")[0].strip() for line in lines if line.strip() and line.strip()[0] != "#"]
    return list(dict.fromkeys(found))
