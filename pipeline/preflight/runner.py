"""What the checks of ``imagebeam preflight`` are: functions of a context, in an order, each with what it needs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google.api_core.exceptions as api_errors
import google.auth.exceptions

from imagebeam.pipeline.diagnostics.error_hints import explain_error
from imagebeam.pipeline.diagnostics.iam_roles import UNKNOWN_MEMBER, Access
from imagebeam.pipeline.diagnostics.results import CheckResult, State
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import ImagebeamError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Transport
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.sources import Source
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """An image of the source.

    Attributes:
        uri: Its address.
        ways: How it can travel: ``uri``, ``inline``, or both.
    """

    uri: str
    ways: Mapping[Transport, ImagePart]


@dataclasses.dataclass
class Context:
    """What the checks know: what a person asked for, and what earlier checks found.

    What a check finds is there only after it: :attr:`Check.needs` says so.

    Attributes:
        settings: What a person asked for.
        beam_args: Options of Beam.
        beam: The same, read.
        probe: Whether calls may be made that are paid.
        tried: What the check that is running does.
        place: What it asks, for the commands that mend a refusal.
        credentials: Whose credentials this process has.
        task: The task.
        profile: What is known of its model.
        bq: BigQuery client.
        source: The source.
        member: Who asks, as IAM writes it.
        location: Where the source is; empty while nobody knows.
        filters: The filters.
        create: Where the results dataset is to be made; None when it is there.
        run: The run's settings.
        sample: An image of the source that can be read.
        transport: How images travel.
    """

    settings: ClassifySettings
    beam_args: Sequence[str]
    beam: argparse.Namespace
    probe: bool
    tried: str = ""
    place: Access = Access("")
    member: str = UNKNOWN_MEMBER
    location: str = ""
    create: str | None = None
    transport: Transport | None = None
    credentials: Any = dataclasses.field(init=False)
    task: Task = dataclasses.field(init=False)
    profile: ModelProfile = dataclasses.field(init=False)
    source: Source = dataclasses.field(init=False)
    filters: Filters = dataclasses.field(init=False)
    run: RunSettings = dataclasses.field(init=False)
    sample: Sample = dataclasses.field(init=False)

    @property
    def bq(self) -> BigQueryClient:
        """BigQuery."""
        return BigQueryClient(self.settings.project)

    @property
    def outcomes(self) -> TableName:
        """The table of outcomes."""
        return TableName(*self.settings.results_dataset, "outcomes")

    @property
    def dataflow(self) -> bool:
        """Whether the job runs on Dataflow."""
        return self.settings.runner == "DataflowRunner"

    def trying(self, what: str, **place: str) -> None:
        """Notes what is done now, and where: dataset, bucket or account."""
        self.tried = what
        self.place = dataclasses.replace(Access(self.settings.project, self.member), **place)


@dataclasses.dataclass(frozen=True, slots=True)
class CheckWarning:
    """What a check says that is not ok, though a run may start.

    Attributes:
        cause: What is to be known.
        fix: What mends it.
        permission: What is missing.
        found: What was seen.
    """

    cause: str
    fix: str = ""
    permission: str = ""
    found: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A check that could not be tried, without anybody's fault.

    Attributes:
        why: Why not.
    """

    why: str


#: What a check gives: what it saw when all is well; it raises when the run could not go on.
Seen = str | CheckWarning | Skipped


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: What it is called in the output.
        tries: What it does, for the documentation.
        permission: What it needs, for the documentation.
        fix: What mends it most often, for the documentation.
        run: Does it.
        needs: Checks whose findings it uses: when one of them failed, it is skipped.
        applies: Whether the run has anything to do with it.
    """

    name: str
    tries: str
    permission: str
    fix: str
    run: Callable[[Context], Seen]
    needs: tuple[str, ...] = ()
    applies: Callable[[Context], bool] = lambda _: True


def run_checks(context: Context, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
    """Runs every check that can run, whatever became of the others.

    Args:
        context: What is known; the checks write into it.
        checks: In an order in which each comes after those that it needs.
    """
    findings: list[CheckResult] = []
    failed: set[str] = set()
    for check in checks:
        if not check.applies(context):
            continue
        waiting = [name for name in check.needs if name in failed]
        if waiting:
            failed.add(check.name)
            findings.append(
                CheckResult(check.name, State.SKIPPED, check.tries, cause=f"waits for: {', '.join(waiting)}")
            )
            continue
        finding = _run(context, check)
        findings.append(finding)
        if finding.state is State.FAILURE:
            failed.add(check.name)
    return tuple(findings)


def _run(context: Context, check: Check) -> CheckResult:
    context.trying(check.tries)
    try:
        seen = check.run(context)
    except (ImagebeamError, api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError) as error:
        why = explain_error(error, context.place)
        return CheckResult(
            check.name,
            State.FAILURE,
            context.tried,
            cause=why.cause,
            permission=why.permission,
            fix=why.fix,
            systemic=why.systemic,
        )
    if isinstance(seen, Skipped):
        return CheckResult(check.name, State.SKIPPED, context.tried, cause=seen.why)
    if isinstance(seen, CheckWarning):
        return CheckResult(check.name, State.WARNING, context.tried, seen.found, seen.cause, seen.permission, seen.fix)
    return CheckResult(check.name, State.OK, context.tried, seen)
