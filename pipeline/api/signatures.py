"""Generate the types of the keyword arguments from the declarations of the flags.

``python -m imagebeam.pipeline.api.signatures --write`` writes them, so that editors complete the arguments
of the functions and type checkers check them.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags.command import description
from imagebeam.pipeline.flags.setting import Flags, Kind, Setting
from imagebeam.pipeline.planning.settings import PLAN
from imagebeam.pipeline.run.embed_settings import JOB_FLAGS
from imagebeam.pipeline.similarity.settings import SEARCH

#: Where the generated modules are.
DIRECTORY: Final = "pipeline/api"
_HEAD: Final = '''"""Types of the keyword arguments of the Python functions{}.

Generated from the declarations of the flags: ``python -m imagebeam.pipeline.api.signatures --write``. Do not edit.
"""

'''
_IMPORTS: Final = """\
import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypedDict

from imagebeam.pipeline.api.beam_arguments import BeamArguments


"""
_BEAM_IMPORTS: Final = """\
from collections.abc import Mapping, Sequence
from typing import TypedDict

BeamValue = str | float | bool | Sequence[str] | Mapping[str, object] | None


"""
TYPES: Final[Mapping[Kind, str]] = {
    Kind.INTEGER: "int",
    Kind.NUMBER: "float | Decimal",
    Kind.BOOLEAN: "bool",
    Kind.NAMES: "str | Sequence[str]",
    Kind.PAIRS: "str | Mapping[str, str]",
    Kind.BOX: "str | Sequence[float]",
    Kind.CIRCLE: "str | Sequence[float]",
    Kind.TIME: "str | datetime.date",
}
_PATHS: Final = frozenset({"FILE", "DIR", "NAME|FILE"})


def build_modules() -> dict[str, str]:
    """Return the modules as Python, by the name of their file."""
    classify, embed = JOB_FLAGS["classify"], JOB_FLAGS["embed"]
    # A TypedDict cannot change a field of its base.
    both = {name: flag for name, flag in classify.items() if _field(flag) == _field(embed.get(name, flag))}
    both = {name: flag for name, flag in both.items() if name in embed}
    beam = [f"    {name}: BeamValue" for name in sorted(beam_flags.names() - {*classify, *embed})]
    classes = [
        _class("RunArguments", "BeamArguments", "Arguments of both ``classify`` and ``embed``.", _fields(both)),
        _class("ClassifyArguments", "RunArguments", "Arguments of ``classify``.", _fields(classify, both)),
        _class("EmbedArguments", "RunArguments", "Arguments of ``embed``.", _fields(embed, both)),
        _class("PlanArguments", "ClassifyArguments", "Arguments of ``plan``.", _fields(PLAN)),
        _class("PlanEmbedArguments", "EmbedArguments", 'Arguments of ``plan("embed")``.', _fields(PLAN)),
        _class("SearchArguments", "TypedDict", "Arguments of ``search``.", _fields(SEARCH)),
    ]
    return {
        "arguments.py": _HEAD.format("") + _IMPORTS + "\n\n".join(classes),
        "beam_arguments.py": _HEAD.format(" that are options of Beam")
        + _BEAM_IMPORTS
        + _class("BeamArguments", "TypedDict", "Options of Beam that some runner uses.", beam),
    }


def _class(name: str, base: str, title: str, fields: Sequence[str]) -> str:
    return "\n".join([f"class {name}({base}, total=False):", f'    """{title}"""', "", *fields, ""])


def _fields(flags: Flags, without: Collection[str] = ()) -> list[str]:
    return [_field(flag) for name, flag in flags.items() if name not in without and not flag.replaced_by]


def _field(flag: Setting) -> str:
    text = textwrap.fill(f'"""{description(flag)}"""', 114, break_on_hyphens=False)
    return textwrap.indent(f"{flag.name}: {_type_of(flag)} | None\n{text}", "    ")


def _type_of(flag: Setting) -> str:
    kind = flag.kind or Kind.TEXT
    if kind is not Kind.TEXT:
        return TYPES[kind]
    if flag.choices:
        return f"Literal[{', '.join(repr(choice) for choice in flag.choices)}]".replace("'", '"')
    return "str | Path" if flag.metavar in _PATHS else "str"


def main() -> int:
    """Print the modules; write them with ``--write``."""
    for name, text in build_modules().items():
        if sys.argv[1:] == ["--write"]:
            (Path(DIRECTORY) / name).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
