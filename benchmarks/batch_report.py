"""Report of a rehearsal of the batch lane, for the terminal and for ``docs/benchmarks-batch.md``."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from collections.abc import Iterator, Mapping, Sequence

#: Target for the peak memory of each process in MB (10⁶ bytes), for a million units.
PEAK_MB = 700.0


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the run.

    Attributes:
        what: Name of the phase.
        seconds: Duration in seconds.
        rows: Number of processed rows; 0 if not applicable.
    """

    what: str
    seconds: float
    rows: int = 0

    @property
    def per_s(self) -> float:
        """Rows per second."""
        return self.rows / max(self.seconds, 1e-3)


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process.

    Attributes:
        what: Name of the process.
        peak_mb: Peak resident memory in MB (10⁶ bytes).
        before_mb: Peak before the run; 0 for a process that was started by the run.
    """

    what: str
    peak_mb: float
    before_mb: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The results of a rehearsal.

    Attributes:
        units: Units in the source.
        exit_code: Exit code of the run.
        counts: Lines of the run report.
        problems: Counts that do not reconcile.
        took_s: Seconds from the start to the end of the process.
        phases: Phases of the run.
        jobs: Number of created jobs by round and shard.
        paid: Billed rows.
        unwritten: Billed rows whose output line was not written.
        answered: Units with an answer in the table.
        recorded: Units with any outcome in the table.
        answered_twice: Units with more than one answer in the table.
        memory: Of every process.
    """

    units: int
    exit_code: int
    counts: Sequence[str]
    problems: Sequence[str]
    took_s: float
    phases: Sequence[Phase]
    jobs: Mapping[str, int]
    paid: int
    unwritten: int
    answered: int
    recorded: int
    answered_twice: int
    memory: Sequence[Memory]

    @property
    def paid_twice(self) -> int:
        """Answers that were paid although the unit already had one."""
        return self.paid - self.unwritten - self.answered

    @property
    def duplicate_jobs(self) -> list[str]:
        """Names of shards and rounds with more than one job."""
        return [name for name, count in self.jobs.items() if count != 1]

    @property
    def peak_mb(self) -> float:
        """The highest peak of all processes."""
        return max(process.peak_mb for process in self.memory)

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        return all(met for _, _, met in targets(self))


def targets(report: Report) -> list[tuple[str, str, bool]]:
    """Return each target, the measured value, and whether the target is met."""
    rounds = sorted({name.partition("-")[0] for name in report.jobs})
    per_round = ", ".join(str(sum(name.startswith(f"{each}-") for name in report.jobs)) for each in rounds)
    return [
        (
            "all units accounted for, exit code 0",
            f"exit code {report.exit_code}; {report.recorded:,} of {report.units:,} units have an outcome",
            report.exit_code == 0 and not report.problems and report.recorded == report.units,
        ),
        (
            "one job per shard and round",
            f"{sum(report.jobs.values())} jobs for {len(report.jobs)} shards: {per_round} in rounds 1 to {len(rounds)}",
            not report.duplicate_jobs,
        ),
        (
            "no answer is paid twice",
            (
                f"{report.paid_twice:,}; {report.paid:,} rows paid, {report.answered:,} units answered, "
                f"{report.unwritten:,} answers paid but not written by the service"
            ),
            report.paid_twice == 0 and report.answered_twice == 0,
        ),
        (
            f"each process uses less than {PEAK_MB:.0f} MB",
            "; ".join(f"{process.what}: {process.peak_mb:.0f} MB" for process in report.memory),
            report.peak_mb < PEAK_MB,
        ),
    ]


def plain(report: Report) -> Iterator[str]:
    """Format a report for a terminal."""
    yield f"{report.units:,} units in {report.took_s:.0f} s"
    yield ""
    yield from report.counts
    yield from (f"PROBLEM {problem}" for problem in report.problems)
    yield ""
    for what, measured, met in targets(report):
        yield f"{'ok    ' if met else 'MISSED'} {what}: {measured}"
    yield ""
    yield f"{'':32}{'seconds':>10}{'rows':>12}{'rows/s':>10}"
    for phase in report.phases:
        rows = f"{phase.rows:>12,}{phase.per_s:>10,.0f}" if phase.rows else ""
        yield f"{phase.what:32}{phase.seconds:>10.1f}{rows}"


def table(report: Report) -> Iterator[str]:
    """Format a report for the page."""
    yield f"{machine()} {report.units:,} units took {report.took_s / 60:.1f} minutes."
    yield ""
    yield "| target | measured | |"
    yield "|---|---|---|"
    for what, measured, met in targets(report):
        yield f"| {what} | {measured} | {'ok' if met else '**missed**'} |"
    yield ""
    yield "| phase | seconds | rows | rows/s |"
    yield "|---|--:|--:|--:|"
    for phase in report.phases:
        rows = f"{phase.rows:,} | {phase.per_s:,.0f}" if phase.rows else "|"
        yield f"| {phase.what} | {phase.seconds:.1f} | {rows} |"


def machine() -> str:
    """Return a sentence about the date and the machine, without names."""
    today = datetime.datetime.now(datetime.UTC).date()
    return f"Measured {today} on {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}."


def marked(page: str, name: str, lines: Iterator[str]) -> str:
    """Replace the text between two markers of a page.

    Raises:
        ValueError: The page does not contain the markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin} … {end}")
    return "\n".join([before + begin, "", *lines, "", end + after])
