"""``imagebeam preflight``: check everything a run needs, and print how to fix failures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from imagebeam.pipeline.console.help import width
from imagebeam.pipeline.diagnostics import results as check_results
from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.preflight.registry import CHECKS
from imagebeam.pipeline.preflight.runner import Context, run_checks
from imagebeam.pipeline.preflight.settings import PREFLIGHT
from imagebeam.pipeline.run.embed_settings import Job


def run(job: Job, line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> int:
    """Check a run.

    Args:
        job: Command to check.
        line: The command line: its flags, and those of preflight.
        cwd: Directory that relative paths start from.
        environ: The environment.

    Returns:
        0 if nothing failed, 2 if a user must fix something, 3 if a service is not available.

    Raises:
        UserError: A flag is invalid, so that there is no run to check.
    """
    own, rest = line.split(PREFLIGHT)
    settings, beam_args = job.load(rest, cwd=cwd, environ=environ)
    context = Context(settings, beam_args, beam_flags.read(beam_args), not own.get(PREFLIGHT["no_probe"]))
    found = run_checks(context, CHECKS)
    if settings.as_json:
        document = check_results.build_document(
            found, command=job.name, lane=settings.lane, transport=context.transport
        )
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.write("\n".join(check_results.format_results(found, width(), quiet=settings.quiet)) + "\n")
    return check_results.exit_code(found)
