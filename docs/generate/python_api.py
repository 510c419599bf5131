"""The reference of the Python API, from the docstrings and signatures of the exported names."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from docs.generate.markdown import NOTICE, paragraph

#: Packages whose exported names are the API.
PACKAGES: Final = ("imagebeam.pipeline", "imagebeam.transforms")
_SECTION: Final = re.compile(r"(Args|Attributes|Returns|Yields|Raises):")
_ENTRY: Final = re.compile(r"(\*{0,2}\w+(?:, \w+)*): (.*)", re.DOTALL)
_ROLE: Final = re.compile(r":\w+:`~?!?(?:[\w.]+\.)?(\w+)`")
_INTRODUCTION: Final = f"""\
# Python API

{NOTICE}
[Python](../python.md) introduces the functions. Names that are not listed here are internal and may change.
"""


def build_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_INTRODUCTION, *(line for package in PACKAGES for line in _package(package))])


def _package(name: str) -> Iterator[str]:
    package = importlib.import_module(name)
    yield f"## `{name}`\n"
    exported = [each for each in package.__all__ if not each.startswith("__")]
    kinds = (
        ("Functions", [each for each in exported if inspect.isfunction(getattr(package, each))]),
        ("Classes", [each for each in exported if inspect.isclass(getattr(package, each))]),
    )
    for title, names in kinds:
        if names:
            yield f"**{title}**: {', '.join(f'[`{each}`](#{_anchor(title, each)})' for each in names)}\n"
    for each in kinds[0][1]:
        yield f"### `{each}`\n"
        yield from _member(each, getattr(package, each), signature=True)
    for each in kinds[1][1]:
        found = getattr(package, each)
        yield f"### Class `{each}`\n"
        # Classes of imagebeam.pipeline are results: users do not create them.
        constructed = dataclasses.is_dataclass(found) and not isinstance(found, enum.EnumType)
        yield from _member(each, found, signature=constructed and name == "imagebeam.transforms")
        yield from _methods(found)


def _anchor(title: str, name: str) -> str:
    return name.lower() if title == "Functions" else f"class-{name.lower()}"


def _methods(found: type) -> Iterator[str]:
    """Yield the list of methods and properties."""
    lines = []
    for name, member in vars(found).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or name == "expand" or not inspect.isfunction(function):
            continue
        call = name if isinstance(member, property) else _signature(name, function).replace("self, ", "", 1)
        call = call.replace("(self)", "()").replace("cls, ", "", 1)
        lines.append(
            _item(f"`{' '.join(call.split())}`: {_text((inspect.getdoc(function) or '').partition(chr(10) * 2)[0])}")
        )
    if lines:
        yield "Methods and properties:\n\n" + "\n".join([*lines, ""])


def _item(text: str) -> str:
    return textwrap.fill(f"- {text}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _member(name: str, found: Any, *, signature: bool) -> Iterator[str]:
    if signature:
        yield f"```python\n{_signature(name, found)}\n```\n"
    yield from _describe(inspect.getdoc(found) or "")
    if inspect.isclass(found) and issubclass(found, enum.Enum) and "Attributes:" not in (found.__doc__ or ""):
        yield f"Values: {', '.join(f'`{member.name}`' for member in found)}.\n"


def _signature(name: str, found: Any) -> str:
    """Return the call of a function or class, one parameter per line if it is long."""
    shown = [str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in _parameters(found)]
    line = f"{name}({', '.join(shown)})"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {each},\n" for each in shown) + ")"


def _parameters(found: Any) -> list[inspect.Parameter]:
    parameters = inspect.signature(found).parameters.values()
    factories = (
        {field.name for field in dataclasses.fields(found) if field.default is dataclasses.MISSING}
        if inspect.isclass(found) and dataclasses.is_dataclass(found)
        else set()
    )
    # The text of a default_factory contains an address.
    return [
        parameter.replace(default=_Text("…"))
        if parameter.name in factories and _has_default(parameter)
        else parameter.replace(default=_Text(_default(parameter.default)))
        if _has_default(parameter)
        else parameter
        for parameter in parameters
    ]


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _default(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str):
        return json.dumps(value)
    text = repr(value)
    return "…" if len(text) > 30 or "<" in text else text


class _Text(str):
    """A text whose representation has no quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _describe(doc: str) -> Iterator[str]:
    """Yield the parts of a docstring in Google style."""
    rest = re.split(r"\n\n(?=\S)", inspect.cleandoc(doc))
    for block in _with_literals(rest):
        section = _SECTION.fullmatch(block.partition("\n")[0].strip())
        if block.startswith("    "):
            yield f"```python\n{textwrap.dedent(block).strip()}\n```\n"
        elif block.startswith(">>>"):
            yield f"```pycon\n{block.strip()}\n```\n"
        elif section:
            yield from _section(section[1], textwrap.dedent(block.partition("\n")[2]))
        else:
            yield paragraph(_text(block))


def _with_literals(blocks: list[str]) -> Iterator[str]:
    """Yield blocks; a literal block, which follows a double colon, is a block of its own."""
    for block in blocks:
        before, found, literal = block.partition("::\n\n")
        if found:
            yield f"{before}:"
            yield textwrap.indent(textwrap.dedent(literal), "    ")
        else:
            yield block


def _section(name: str, body: str) -> Iterator[str]:
    entries = re.split(r"\n(?=\S)", body.strip())
    if name in ("Returns", "Yields"):
        yield f"{name}: {paragraph(_text(body))}"
        return
    lines = []
    for entry in entries:
        found = _ENTRY.fullmatch(entry)
        lines.append(_item(f"`{found[1]}`: {_text(found[2])}" if found else _text(entry)))
    yield f"{name}:\n\n" + "\n".join([*lines, ""])


def _text(text: str) -> str:
    """Return text in Markdown: code in single backquotes, names instead of references."""
    joined = " ".join(text.split())
    return _ROLE.sub(r"`\1`", joined).replace("``", "`")
