"""Check a run before it starts, and announce what it will process and cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.diagnostics.results import State
from imagebeam.pipeline.preflight import batch_checks
from imagebeam.pipeline.preflight.registry import CHECKS
from imagebeam.pipeline.preflight.runner import Command, Context, run_gate
from imagebeam.pipeline.run import cost_estimate, model_probe
from imagebeam.pipeline.run.assemble import with_model_facts
from imagebeam.pipeline.run.event_loop import run_coroutine
from imagebeam.pipeline.run.resolved_run import ReadyRun, ResolvedRun
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.core.records import Lane, Transport


def check_run(context: Context, console: Console) -> ReadyRun:
    """Run the checks that gate a command, and count the units of the source. No model is called.

    Args:
        context: The run and the command.
        console: Prints the source and warnings.

    Raises:
        UserError: The user must fix something. Nothing was called or written.
        SystemicError: A service cannot be used.
    """
    for result in run_gate(context, CHECKS):
        if result.name == "source":
            console.status(f"source   {result.found}")
        if result.state is State.WARNING and context.command is Command.RUN:
            console.warn(result.cause)
    resolved, table = context.resolved, context.resolved.source.table
    with context.hints("count the units of the source", dataset=f"{table.project}.{table.dataset}" if table else ""):
        return ReadyRun(resolved, context.run, cost_estimate.count_units(resolved.bq, context.run))


def prepare_run(settings: ClassifySettings, beam_args: Sequence[str], console: Console) -> ReadyRun:
    """Check a run of classify or embed, decide its transport, announce its cost and create the results dataset.

    Args:
        settings: Settings of the run.
        beam_args: Options of Beam.
        console: Prints what was found.

    Raises:
        UserError: The user must fix or confirm something. Nothing was called or written.
        SystemicError: A service cannot be used.
    """
    context = Context(ResolvedRun(settings), beam_args, Command.RUN)
    ready = check_run(context, console)
    with context.hints("let the model read an image"):
        transport = run_coroutine(model_probe.resolve_transport(ready.resolved, ready.counts.remaining))
    if settings.lane == Lane.BATCH and transport == Transport.INLINE:
        raise batch_checks.unreadable_images(ready.resolved.task)
    with context.hints("look up the tuned model"):
        ready = dataclasses.replace(ready, run=with_model_facts(ready.run, ready.resolved, transport))
    cost_estimate.announce(ready, console.status)
    if created := ready.resolved.create_results_dataset():
        console.status(created)
    return ready
