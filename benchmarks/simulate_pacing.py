"""Runs the pacer of :mod:`imagebeam.transforms.engine.rate_limiter` against quotas that hold, move and are shared.

In virtual time, with 1 to 1,000 processes. It prints a table, and exits with 1 if a target is missed::

    python -m benchmarks.simulate_pacing [--quick] [--only NAME] [--seed N] [--runs N]
                                         [--svg docs/rate-limiting.svg] [--write docs/rate-limiting.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.pacing_measures import Measured, Summary, measure, summarise
from benchmarks.pacing_plot import Panel, draw
from benchmarks.pacing_scenarios import DOWN, FIXED, LATE, LONG, MANY, QUICK, SAWTOOTH, UP
from benchmarks.pacing_world import Scenario, Target, simulate

RUNS = 5
HEAD = (
    "| scenario | runs | utilisation | 429s | reached in | Jain | target | |",
    "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
)
CAPTION = "Calls per second, found by the pacer alone"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
FEW = 4  # so many processes get a line each in the picture


def summary_of(scenario: Scenario, seed: int, runs: int) -> Summary:
    """Runs a scenario with that seed and the ones after it."""
    return summarise([measure(scenario, simulate(scenario, seed + run)) for run in range(runs)])


def row(scenario: Scenario, summary: Summary) -> str:
    """A line of the table: means, and the worst in brackets where there was more than one run."""
    missed = "; ".join(summary.misses(scenario.target))
    promised = _promised(scenario.target)
    verdict = "" if not promised else f"**missed: {missed}**" if missed else "met"
    mean, worst = _figures(scenario, summary.mean), _figures(scenario, summary.worst)
    shown = (
        f"{usual} ({bad})" if usual and summary.runs > 1 else usual for usual, bad in zip(mean, worst, strict=True)
    )
    return f"| {scenario.name} | {summary.runs} | {' | '.join(shown)} | {promised} | {verdict} |"


def _figures(scenario: Scenario, measured: Measured) -> tuple[str, str, str, str]:
    reached = "never" if measured.reached_s is None else f"{measured.reached_s:.1f} s"
    return (
        f"{measured.utilisation:.1%}",
        f"{measured.refused:.1%}",
        "" if scenario.reach is None else reached,
        "" if measured.jain is None else f"{measured.jain:.3f}",
    )


def _promised(target: Target) -> str:
    """The targets of a scenario, in the order of the columns."""
    parts = (
        (target.utilisation, "used ≥ {:.0%}"),
        (target.refused, "429s ≤ {:.0%}"),
        (target.reached_s, "≤ {:.0f} s"),
        (target.jain, "Jain ≥ {}"),
    )
    return ", ".join(text.format(value) for value, text in parts if value is not None)


def panel(scenario: Scenario, seconds: int, seed: int, *, title: str = "") -> Panel:
    """Runs a scenario for its picture; every process gets a line if there are at most four."""
    calls = simulate(dataclasses.replace(scenario, seconds=seconds, images=None), seed)
    lines = scenario.processes if scenario.processes <= FEW else 1
    granted = [[0.0] * seconds for _ in range(lines)]
    refused = [0.0] * seconds
    for call in calls:
        second = min(int(call.at), seconds - 1)
        if not call.granted:
            refused[second] += 1
        else:
            granted[call.process if lines > 1 else 0][second] += call.amount
    quota = [scenario.quota(second + 0.5) / lines for second in range(seconds)]
    return Panel(title or scenario.name, quota, granted, refused)


def picture(seed: int) -> str:
    """The plot of a few scenarios, as SVG."""
    panels = [
        panel(FIXED, 90, seed, title="600/min: found and held"),
        panel(UP, 60, seed, title="Ten times as much after 30 s"),
        panel(DOWN, 60, seed, title="A tenth as much after 30 s"),
        panel(SAWTOOTH, 120, seed, title="A quota that climbs and falls"),
        panel(LATE, 150, seed, title="4 processes, one comes 30 s late: a line each, quota ÷ 4"),
        panel(MANY, 90, seed, title="1,000 processes on one quota, all starting at once"),
    ]
    return draw(panels, CAPTION)


def between_marks(page: str, table: Sequence[str], command: str) -> str:
    """The page with a new table between its marks.

    Raises:
        ValueError: The page has no such marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} and {END} in the page")
    made = f"Made by `{command}`. Do not edit: run it again."
    return "\n".join([head + begin, made, "", *table, end + tail])


def main(argv: Sequence[str] | None = None, quick: Sequence[Scenario] = QUICK, long: Sequence[Scenario] = LONG) -> int:
    """Prints the table; 1 if a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_pacing", description="Simulates the pacer.", allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--only", default="", metavar="NAME", help="scenarios whose name contains this")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers of the first run")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"of each scenario, each with a seed of its own ({RUNS}; long ones 1)"
    )
    parser.add_argument("--svg", type=Path, metavar="PATH", help="also draw a few of them into this file")
    parser.add_argument("--write", type=Path, metavar="PATH", help="also write the table between the marks of a page")
    options = parser.parse_args(argv)
    if options.runs is not None and options.runs < 1:
        parser.error("--runs: at least 1")
    chosen = [
        (scenario, options.runs or usual)
        for scenario, usual in _all(quick, () if options.quick else long)
        if options.only in scenario.name
    ]
    if not chosen:
        parser.error(f"--only: no scenario's name contains {options.only!r}")
    table, missed = list(HEAD), False
    _say(*HEAD)
    for scenario, runs in chosen:
        summary = summary_of(scenario, options.seed, runs)
        table.append(row(scenario, summary))
        _say(table[-1])
        missed = missed or bool(summary.misses(scenario.target))
    if options.svg:
        options.svg.write_text(picture(options.seed), encoding="utf-8")
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(between_marks(page, table, _command(options)), encoding="utf-8")
    return 1 if missed else 0


def _all(quick: Sequence[Scenario], long: Sequence[Scenario]) -> Iterator[tuple[Scenario, int]]:
    """The scenarios, and how often each is run."""
    yield from ((scenario, RUNS) for scenario in quick)
    yield from ((scenario, 1) for scenario in long)


def _command(options: argparse.Namespace) -> str:
    """What was typed, without where it was written to."""
    chosen = (
        *(("--quick",) if options.quick else ()),
        *((f"--only={options.only}",) if options.only else ()),
        *((f"--seed={options.seed}",) if options.seed else ()),
        *((f"--runs={options.runs}",) if options.runs else ()),
    )
    return shlex.join(["python", "-m", "benchmarks.simulate_pacing", *chosen])


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
