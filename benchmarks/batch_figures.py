"""What a rehearsal of the batch lane came to, for the terminal and for ``docs/batch.md``."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from collections.abc import Iterator, Mapping, Sequence

#: What any process may take, in MB (10⁶ bytes), at a million units.
PEAK_MB = 700.0


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run.

    Attributes:
        what: What was done.
        seconds: For so long.
        rows: With so many rows; 0 if rows have nothing to do with it.
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
    """A process.

    Attributes:
        what: Which.
        peak_mb: Greatest resident memory, in MB (10⁶ bytes).
        before_mb: That before the run began; 0 for a process that began with it.
    """

    what: str
    peak_mb: float
    before_mb: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a rehearsal came to.

    Attributes:
        units: Units of the source.
        exit_code: Of the run.
        books: Its books, a line each.
        problems: What does not balance.
        took_s: Seconds from the start of the process to its end.
        phases: What they went into.
        jobs: Jobs that the service was asked for, by round and shard.
        paid: Rows that the service charges.
        unwritten: Those of them whose line it did not write.
        answered: Units with an answer in the table.
        recorded: Units with any outcome in the table.
        answered_twice: Units with more than one answer in the table.
        memory: Of every process.
    """

    units: int
    exit_code: int
    books: Sequence[str]
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
    def bought_twice(self) -> int:
        """Answers that were paid although the service had written one for the unit before."""
        return self.paid - self.unwritten - self.answered

    @property
    def jobs_twice(self) -> list[str]:
        """Shards and rounds with more than one job."""
        return [name for name, count in self.jobs.items() if count != 1]

    @property
    def peak_mb(self) -> float:
        """The greatest peak of any process."""
        return max(process.peak_mb for process in self.memory)

    @property
    def kept(self) -> bool:
        """True if every promise is kept."""
        return all(kept for _, _, kept in promises(self))


def promises(report: Report) -> list[tuple[str, str, bool]]:
    """What is promised, what was seen, and whether that is it."""
    rounds = sorted({name.partition("-")[0] for name in report.jobs})
    per_round = ", ".join(str(sum(name.startswith(f"{each}-") for name in report.jobs)) for each in rounds)
    return [
        (
            "the books balance to the row, exit code 0",
            f"exit code {report.exit_code}; {report.recorded:,} of {report.units:,} units have an outcome",
            report.exit_code == 0 and not report.problems and report.recorded == report.units,
        ),
        (
            "one job per shard and round",
            f"{sum(report.jobs.values())} jobs for {len(report.jobs)} shards: {per_round} in rounds 1 to {len(rounds)}",
            not report.jobs_twice,
        ),
        (
            "no answer is bought twice",
            (
                f"{report.bought_twice:,}; {report.paid:,} rows paid, {report.answered:,} units answered, "
                f"{report.unwritten:,} answers paid and never written by the service"
            ),
            report.bought_twice == 0 and report.answered_twice == 0,
        ),
        (
            f"no process takes {PEAK_MB:.0f} MB",
            "; ".join(f"{process.what}: {process.peak_mb:.0f} MB" for process in report.memory),
            report.peak_mb < PEAK_MB,
        ),
    ]


def plain(report: Report) -> Iterator[str]:
    """A report for a terminal."""
    yield f"{report.units:,} units in {report.took_s:.0f} s"
    yield ""
    yield from report.books
    yield from (f"PROBLEM {problem}" for problem in report.problems)
    yield ""
    for what, seen, kept in promises(report):
        yield f"{'ok   ' if kept else 'SHORT'} {what}: {seen}"
    yield ""
    yield f"{'':32}{'seconds':>10}{'rows':>12}{'rows/s':>10}"
    for phase in report.phases:
        rows = f"{phase.rows:>12,}{phase.per_s:>10,.0f}" if phase.rows else ""
        yield f"{phase.what:32}{phase.seconds:>10.1f}{rows}"


def table(report: Report) -> Iterator[str]:
    """A report for the page."""
    yield f"{machine()} {report.units:,} units took {report.took_s / 60:.1f} minutes."
    yield ""
    yield "| promise | seen | |"
    yield "|---|---|---|"
    for what, seen, kept in promises(report):
        yield f"| {what} | {seen} | {'ok' if kept else '**short**'} |"
    yield ""
    yield "| phase | seconds | rows | rows/s |"
    yield "|---|--:|--:|--:|"
    for phase in report.phases:
        rows = f"{phase.rows:,} | {phase.per_s:,.0f}" if phase.rows else "|"
        yield f"| {phase.what} | {phase.seconds:.1f} | {rows} |"


def machine() -> str:
    """Where and when it was measured, without anybody's names."""
    today = datetime.datetime.now(datetime.UTC).date()
    return f"Measured {today} on {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}."


def marked(page: str, name: str, lines: Iterator[str]) -> str:
    """A page with other text between its markers of a name.

    Raises:
        ValueError: It lacks them.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin} … {end}")
    return "\n".join([before + begin, "", *lines, "", end + after])
