"""``imagebeam preflight``: everything that can be known before a run, tried, each with what mends it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.diagnostics import results as check_results
from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import NO_PROBE
from imagebeam.pipeline.preflight.registry import CHECKS
from imagebeam.pipeline.preflight.runner import Context, run_checks
from imagebeam.pipeline.run.embed_settings import embed_settings
from imagebeam.pipeline.run.settings import classify_settings

_COMMANDS: Final = {"classify": classify_settings, "embed": embed_settings}


def main(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> int:
    """Checks a run of classify or embed.

    Args:
        argv: Arguments after ``preflight``: the command, ``classify`` if it is left out, and its flags.
        cwd: Directory that relative paths start from.
        environ: The environment.

    Returns:
        0 when nothing failed, 2 when a person must mend something, 3 when a service cannot be used.

    Raises:
        UserError: A flag is unknown or bad, so that there is no run to check.
    """
    name, rest = (argv[0], argv[1:]) if argv and argv[0] in _COMMANDS else ("classify", argv)
    probe, flags = _probe_of(rest)
    settings, beam_args = _COMMANDS[name](flags, cwd=cwd, environ=environ)
    context = Context(settings, beam_args, beam_flags.read(beam_args), probe)
    found = run_checks(context, CHECKS)
    if settings.json:
        told = check_results.build_document(found, command=name, lane=settings.lane, transport=context.transport)
        sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.write("\n".join(check_results.format_results(found, help_text.width(), quiet=settings.quiet)) + "\n")
    return check_results.exit_code(found)


def _probe_of(argv: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether paid calls may be made, and the arguments without what says so."""
    rest, probe = [], True
    for argument in argv:
        written, equals, text = argument.partition("=")
        if written.replace("-", "_") == f"__{NO_PROBE.name}":
            probe = not flag_values.from_text(NO_PROBE, text if equals else "true", where=written)
        else:
            rest.append(argument)
    return probe, rest
