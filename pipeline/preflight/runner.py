"""Declare and run checks: all of them for ``imagebeam preflight``, the quick ones before every paid command."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import google.api_core.exceptions as api_errors
import google.auth.exceptions

from imagebeam.pipeline.diagnostics.error_hints import explain_error
from imagebeam.pipeline.diagnostics.iam_roles import UNKNOWN_MEMBER, Access
from imagebeam.pipeline.diagnostics.results import CheckResult, State
from imagebeam.pipeline.embed_sql.setup import SqlResources
from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.run.resolved_run import ResolvedRun
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.requests import ImagePart
from imagebeam.transforms.run_settings import RunSettings

#: Errors that a check may raise.
_ERRORS: Final = (ImagebeamError, api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError)


class Command(enum.StrEnum):
    """What the checks are run for."""

    PREFLIGHT = "preflight"
    RUN = "run"
    PLAN = "plan"


class Gate(enum.StrEnum):
    """Before which commands a check also runs, besides ``imagebeam preflight``."""

    NONE = "–"
    RUN = "classify, embed"
    BATCH = "--lane=batch"
    ALL = "classify, embed, plan"


class Cost(enum.StrEnum):
    """What a check costs."""

    NONE = "no request"
    FREE = "free"
    PAID = "paid"


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """Permissions on a resource.

    Attributes:
        permissions: Their names; :data:`~iam_roles.ROLES` has their roles.
        resource: What they are granted on, in words.
        account: Who needs them; the account that makes the run if empty.
        when: Which runs need them; all if empty.
    """

    permissions: tuple[str, ...]
    resource: str
    account: str = ""
    when: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """An image of the source.

    Attributes:
        uri: Its URI.
        parts: The image as part of a request, by transport.
    """

    uri: str
    parts: Mapping[Transport, ImagePart]


@dataclasses.dataclass
class Context:
    """What the checks share: the run, and what earlier checks found.

    A check may read what another one found only if it names that one in :attr:`Check.needs`.

    Attributes:
        resolved: The run, resolved from its settings.
        beam_args: Options of Beam.
        command: What the checks are run for.
        paid_calls: Whether checks may make paid calls.
        check: The check that is running.
        action: What it does, for the result.
        access: Who accesses which resources, for hints.
        member: The account of this process as an IAM member.
        credentials: Credentials of this process.
        sql_resources: Connection, model and object table of the SQL lane.
        run: Settings that every step of the run gets.
        sample: An image of the source that can be read.
        transport: How images reach the model; None while undecided.
        location: BigQuery location of source and results; empty while unknown.
        creates_dataset: Whether the run creates the results dataset.
        beam: The options of Beam, parsed.
    """

    resolved: ResolvedRun
    beam_args: Sequence[str] = ()
    command: Command = Command.PREFLIGHT
    paid_calls: bool = True
    action: str = ""
    access: Access = Access("")
    member: str = UNKNOWN_MEMBER
    transport: Transport | None = None
    location: str = ""
    creates_dataset: bool = False
    check: Check = dataclasses.field(init=False)
    credentials: Any = dataclasses.field(init=False)
    sql_resources: SqlResources = dataclasses.field(init=False)
    run: RunSettings = dataclasses.field(init=False)
    sample: Sample = dataclasses.field(init=False)
    beam: argparse.Namespace = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.beam = beam_flags.read(self.beam_args)

    @property
    def settings(self) -> ClassifySettings:
        """Settings of the run."""
        return self.resolved.settings

    @property
    def dataflow(self) -> bool:
        """Whether the job runs on Dataflow."""
        return self.settings.runner == "DataflowRunner"

    def begin(self, action: str, **resources: str) -> None:
        """Note what is done next, and on which dataset, bucket or account."""
        self.action = action
        self.access = Access(self.settings.project, self.member, **resources)

    def ok(self, found: str) -> CheckResult:
        """Return a result without a problem."""
        return CheckResult(self.check.name, State.OK, self.action, found)

    def warning(self, cause: str, *, fix: str = "", permission: str = "", found: str = "") -> CheckResult:
        """Return a result that the user should know about; the run may start."""
        return CheckResult(self.check.name, State.WARNING, self.action, found, cause, permission, fix)

    def skipped(self, cause: str) -> CheckResult:
        """Return the result of a check that could not run."""
        return CheckResult(self.check.name, State.SKIPPED, self.action, cause=cause)

    def failure(self, error: BaseException) -> CheckResult:
        """Return the result of a check that raised an error."""
        hint = explain_error(error, self.access)
        return CheckResult(
            self.check.name,
            State.FAILURE,
            self.action,
            cause=hint.cause,
            permission=hint.permission,
            fix=hint.fix,
            systemic=hint.systemic,
        )

    @contextlib.contextmanager
    def hints(self, action: str, **resources: str) -> Iterator[None]:
        """Add the missing permission and the fix to an error, as preflight shows them.

        Args:
            action: What is done.
            **resources: Dataset, bucket or account on which it is done.

        Raises:
            UserError: The same error, or one of a Google client that the user can fix.
            SystemicError: The same error, or one of a Google client.
        """
        self.begin(action, **resources)
        try:
            yield
        except _ERRORS as error:
            hint = explain_error(error, self.access)
            if isinstance(error, ImagebeamError) and hint.cause == error.cause and hint.fix == error.fix:
                raise
            fixable = isinstance(error, UserError) or not (isinstance(error, ImagebeamError) or hint.systemic)
            kind = UserError if fixable else SystemicError
            raise kind(hint.cause, permission=hint.permission, fix=hint.fix) from error


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """The declaration of a check.

    Attributes:
        name: Its name in the output.
        tries: What it does, for output and documentation.
        fix: The most common fix, for the documentation.
        run: Does it. Returns a result, or raises the error of a check that failed.
        needs: Checks that must not have failed.
        cost: What it costs.
        gate: Before which commands it also runs.
        lanes: Lanes that it applies to.
        applies: Whether it applies to the run.
        grants: Permissions that it needs, or that it checks for the run; for the documentation.
    """

    name: str
    tries: str
    fix: str
    run: Callable[[Context], CheckResult]
    needs: tuple[str, ...] = ()
    cost: Cost = Cost.FREE
    gate: Gate = Gate.NONE
    lanes: frozenset[Lane] = frozenset(Lane)
    applies: Callable[[Context], bool] = lambda _: True
    grants: tuple[Grant, ...] = ()

    def runs_for(self, context: Context) -> bool:
        """Return whether the check applies to the run, and gates the command if that is not preflight."""
        lane = context.settings.lane
        gates = {
            Command.PREFLIGHT: True,
            Command.RUN: self.gate in (Gate.ALL, Gate.RUN) or (self.gate is Gate.BATCH and lane == Lane.BATCH),
            Command.PLAN: self.gate is Gate.ALL,
        }
        return gates[context.command] and lane in self.lanes and self.applies(context)


def run_checks(context: Context, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
    """Run every check that applies, also after others failed.

    Args:
        context: What the checks share.
        checks: In an order in which each comes after those that it needs.
    """
    results: list[CheckResult] = []
    failed: set[str] = set()
    for check in checks:
        if not check.runs_for(context):
            continue
        context.check = check
        context.begin(check.tries)
        if missing := [name for name in check.needs if name in failed]:
            result = context.skipped(f"waits for: {', '.join(missing)}")
            failed.add(check.name)
        else:
            try:
                result = check.run(context)
            except _ERRORS as error:
                result = context.failure(error)
                failed.add(check.name)
        results.append(result)
    return tuple(results)


def run_gate(context: Context, checks: Sequence[Check]) -> Iterator[CheckResult]:
    """Run the checks that gate a command, until the first one fails.

    Args:
        context: What the checks share.
        checks: In an order in which each comes after those that it needs.

    Raises:
        UserError: A check found something that the user must fix.
        SystemicError: A service cannot be used.
    """
    for check in checks:
        if check.runs_for(context):
            context.check = check
            with context.hints(check.tries):
                result = check.run(context)
            yield result
