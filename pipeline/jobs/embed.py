"""``imagebeam embed``: compute an embedding of every remaining image of a source."""

from __future__ import annotations

from collections.abc import Callable

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.jobs import classify
from imagebeam.pipeline.preflight.gate import check_run
from imagebeam.pipeline.preflight.runner import Command, Context
from imagebeam.pipeline.results.run_result import RunResult
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.resolved_run import ResolvedRun
from imagebeam.pipeline.run.vector_index import create_vector_index
from imagebeam.transforms.core.records import Lane


def run(settings: EmbedSettings, beam_args: list[str], show: Callable[[RunResult], None] = lambda _: None) -> RunResult:
    """Run the job as :func:`classify.run` does, or in BigQuery, and create the vector index if requested.

    Args:
        settings: Settings of the run.
        beam_args: Options of Beam.
        show: Receives the result before the vector index is created.
    """
    console = Console(quiet=settings.quiet, json=settings.as_json)
    if settings.lane == Lane.SQL:
        from imagebeam.pipeline.embed_sql import command as embed_sql_command

        context = Context(ResolvedRun(settings), beam_args, Command.RUN)
        return embed_sql_command.run(check_run(context, console), context.sql_resources, console, show)
    result = classify.run(settings, beam_args, show)
    if settings.vector_index:
        create_vector_index(settings, result.exit_code, console)
    return result
