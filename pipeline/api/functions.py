"""The functions of ``imagebeam.pipeline``: ``classify``, ``embed``, ``search``, ``plan`` and ``prepare``.

Keyword arguments are the flags of the command of the same name, with the same values and checks. As for the commands,
``imagebeam.yaml`` in the working directory gives what is not an argument (``config=`` names another file), and
``GOOGLE_CLOUD_PROJECT`` is the default project. An argument that is None counts as not given.

Errors are exceptions: :class:`~imagebeam.transforms.UserError` for what the caller can fix,
:class:`~imagebeam.transforms.SystemicError` for a service that cannot be used. The functions work in any thread, and
inside a running event loop. In the main thread, the first Ctrl-C (in a notebook: interrupt) stops new calls, waits for
those in flight and returns the result, whose ``exit_code`` is 130; a second one raises KeyboardInterrupt at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from imagebeam.pipeline.api.keywords import read_keywords
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.planning.settings import PLAN, load_plan
from imagebeam.pipeline.run.embed_settings import EMBED, JOBS, load_embed
from imagebeam.pipeline.run.settings import load_classify
from imagebeam.pipeline.similarity.settings import SEARCH, load_search
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

if TYPE_CHECKING:
    from imagebeam.pipeline.api.arguments import (
        ClassifyArguments,
        EmbedArguments,
        PlanArguments,
        PlanEmbedArguments,
        SearchArguments,
    )
    from imagebeam.pipeline.planning.text import Plan
    from imagebeam.pipeline.results.run_result import RunResult
    from imagebeam.pipeline.run.embed_settings import Job
    from imagebeam.pipeline.similarity.result import SearchResult
    from imagebeam.transforms.run_settings import RunSettings


def classify(**flags: Unpack[ClassifyArguments]) -> RunResult:
    """Run Gemini on every image of a table and write the answers to BigQuery, as ``imagebeam classify`` does.

    Units that are already answered are skipped, so that the same call again continues where the last one stopped::

        result = classify(task="describe", source="my_dataset.images", results="answers", limit=10)
        result.to_dataframe()

    Args:
        **flags: Flags of ``imagebeam classify``.

    Returns:
        Counts, cost and answers of the run.

    Raises:
        UserError: An argument is invalid, or the user must fix or confirm something. Nothing was called.
        SystemicError: A service cannot be used. Answers so far are kept.
        ReconciliationError: The counts of the run do not reconcile.
    """
    from imagebeam.pipeline.jobs import classify as job

    line = read_keywords("classify", CLASSIFY, flags, beam=True)
    return job.run(*load_classify(line, cwd=Path.cwd(), environ=os.environ)).raise_for_stop()


def embed(**flags: Unpack[EmbedArguments]) -> RunResult:
    """Compute an embedding of every image of a table and write it to BigQuery, as ``imagebeam embed`` does.

    Args:
        **flags: Flags of ``imagebeam embed``.

    Returns:
        Counts, cost and vectors of the run; with ``dry_run``, the SQL statements.

    Raises:
        UserError: An argument is invalid, or the user must fix or confirm something. Nothing was called.
        SystemicError: A service cannot be used. Vectors so far are kept.
        ReconciliationError: The counts of the run do not reconcile.
    """
    from imagebeam.pipeline.jobs import embed as job

    line = read_keywords("embed", EMBED, flags, beam=True)
    return job.run(*load_embed(line, cwd=Path.cwd(), environ=os.environ)).raise_for_stop()


def search(**flags: Unpack[SearchArguments]) -> SearchResult:
    """Find images by text, by a picture, or by another image of the table, as ``imagebeam search`` does::

        search(text="a dark street", results="answers", top_k=10)

    Args:
        **flags: Flags of ``imagebeam search``.

    Returns:
        The nearest images.

    Raises:
        UserError: An argument is invalid, or there is no matching table of embeddings.
        SystemicError: BigQuery or Vertex AI cannot be used.
    """  # noqa: D415 - ends with an example
    from imagebeam.pipeline.similarity import command

    line = read_keywords("search", SEARCH, flags, beam=False)
    return command.run(load_search(line, cwd=Path.cwd(), environ=os.environ))


@overload
def plan(job: Literal["classify"] = "classify", /, **flags: Unpack[PlanArguments]) -> Plan: ...
@overload
def plan(job: Literal["embed"], /, **flags: Unpack[PlanEmbedArguments]) -> Plan: ...
def plan(job: str = "classify", /, **flags: Any) -> Plan:
    """Estimate units, duration and cost of a run in each lane, as ``imagebeam plan`` does.

    The model is called only with ``probe``.

    Args:
        job: ``classify`` or ``embed``.
        **flags: Flags of the job, and of ``imagebeam plan``.

    Returns:
        The estimate of each lane, and the recommended one.

    Raises:
        UserError: An argument is invalid, or the user must fix or confirm something.
        SystemicError: A service cannot be used.
    """
    from imagebeam.pipeline.planning import command

    found = _find_job(job)
    line = read_keywords("plan", {**found.flags, **PLAN}, flags, beam=True)
    return command.run(load_plan(found, line, cwd=Path.cwd(), environ=os.environ))


@overload
def prepare(job: Literal["classify"] = "classify", /, **flags: Unpack[ClassifyArguments]) -> RunSettings: ...
@overload
def prepare(job: Literal["embed"], /, **flags: Unpack[EmbedArguments]) -> RunSettings: ...
def prepare(job: str = "classify", /, **flags: Any) -> RunSettings:
    """Check a run and return its settings, for a pipeline of your own with ``StartRun``, ``ReadUnits`` and so on.

    It makes the checks of the command, prints the estimate, and creates the results dataset.

    Args:
        job: ``classify`` or ``embed``.
        **flags: Flags of the job.

    Returns:
        The settings that the transforms of a run take.

    Raises:
        UserError: An argument is invalid, or the user must fix or confirm something. Nothing was called.
        SystemicError: A service cannot be used.
    """
    from imagebeam.pipeline.console.console import Console
    from imagebeam.pipeline.preflight.gate import prepare_run

    found = _find_job(job)
    line = read_keywords("prepare", found.flags, flags, beam=True)
    settings, beam_args = found.load(line, cwd=Path.cwd(), environ=os.environ)
    return prepare_run(settings, beam_args, Console(quiet=settings.quiet, json=settings.as_json)).run


def _find_job(name: str) -> Job:
    if name not in JOBS:
        raise UserError(f"unknown job {name}{suggestion(name, JOBS)}; the jobs are {', '.join(JOBS)}")
    return JOBS[name]
