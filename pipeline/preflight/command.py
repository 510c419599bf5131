"""``imagebeam preflight``: check everything a run needs, and print how to fix failures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.console.help import width
from imagebeam.pipeline.diagnostics.results import build_document, exit_code, format_results
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.preflight.registry import CHECKS
from imagebeam.pipeline.preflight.runner import Context, run_checks
from imagebeam.pipeline.preflight.settings import PREFLIGHT
from imagebeam.pipeline.run.embed_settings import Job
from imagebeam.pipeline.run.resolved_run import ResolvedRun


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
    context = Context(ResolvedRun(settings), beam_args, paid_calls=not own.get(PREFLIGHT["no_probe"]))
    results = run_checks(context, CHECKS)
    console = Console(quiet=settings.quiet, json=settings.as_json)
    if settings.as_json:
        console.print_json(build_document(results, command=job.name, lane=settings.lane, transport=context.transport))
    else:
        console.print(*format_results(results, width(), quiet=settings.quiet))
    return exit_code(results)
