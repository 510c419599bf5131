"""Runs the pacer of :mod:`imagebeam.transforms.pacing` against quotas that hold, move and are shared.

In virtual time, with 1 to 1,000 processes. It prints a table, and exits with 1 if a target is missed::

    python -m benchmarks.simulate_pacing [--quick] [--only NAME] [--seed N] [--svg docs/pacing.svg]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

from benchmarks.pacing_plot import Panel, draw
from benchmarks.pacing_world import (
    MEAN_TOKENS,
    Scenario,
    Target,
    measure,
    noisy,
    sawtooth,
    simulate,
    steady,
    step,
)

ALONE = Target(utilisation=0.97, refused=0.02)
SHARED = Target(utilisation=0.95, refused=0.03, jain=0.9)
SANE = Target(utilisation=0.85, refused=0.1)
HEAD = "| scenario | utilisation | 429s | reached in | Jain | targets |\n| --- | ---: | ---: | ---: | ---: | --- |"
CAPTION = "Calls per second, found by the pacer alone"

FIXED = Scenario("fixed 600/min, 900 images", steady(10), 200, ALONE, images=900)
UP = Scenario("600/min × 10", step(10, 100), 60, Target(reached_s=10), measured=(40, None), reach=30)
DOWN = Scenario("6,000/min ÷ 10", step(100, 10), 60, Target(refused=0.1), measured=(30, 40))
SAWTOOTH = Scenario("sawtooth 1,200 to 6,000/min", sawtooth(20, 100, 30), 240, SANE)
NOISY = Scenario("others leave 30 to 100 % of 3,600/min", noisy(60, 5, 1), 240, SANE)
FOUR = Scenario("4 processes, 2,400/min", steady(40), 300, SHARED, processes=4)
LATE = dataclasses.replace(FOUR, name="4 processes, one 30 s late", starts=(0, 0, 0, 30), measured=(30, None))
MANY = Scenario("1,000 processes, 60,000/min", steady(1000), 600, SHARED, processes=1000)

QUICK = (
    FIXED,
    dataclasses.replace(FIXED, name="the same, mixed sizes", mixed=True),
    dataclasses.replace(
        FIXED, name="as many tokens, mixed sizes", quota=steady(10 * MEAN_TOKENS), mixed=True, in_tokens=True
    ),
    Scenario(
        "2 M tokens/min, mixed sizes",
        steady(2e6 / 60),
        180,
        ALONE,
        mixed=True,
        in_tokens=True,
        measured=(10, None),
    ),
    Scenario("unknown 6,000/min", steady(100), 90, ALONE, measured=(10, None), reach=0),
    UP,
    DOWN,
    SAWTOOTH,
    NOISY,
    Scenario("429 when the rate doubles in 10 s", steady(200), 120, SANE, accelerating=True, measured=(60, None)),
    FOUR,
    LATE,
    Scenario("4 processes, 600/min", steady(10), 600, SHARED, processes=4),
)
LONG = (
    Scenario("4 processes, 24,000/min", steady(400), 300, SHARED, processes=4),
    Scenario("100 processes, 6,000/min", steady(100), 600, SHARED, processes=100),
    MANY,
    dataclasses.replace(
        MANY,
        name="1,000 processes, starting over 30 s",
        starts=tuple(index * 0.03 for index in range(1000)),
        measured=(30, None),
    ),
)


def panel(scenario: Scenario, seconds: int, seed: int, *, title: str = "") -> Panel:
    """Runs a scenario for its picture; every process gets a line if there are at most four."""
    calls = simulate(dataclasses.replace(scenario, seconds=seconds, images=None), seed)
    shown = range(scenario.processes if scenario.processes <= 4 else 1)
    granted = [[0.0] * seconds for _ in shown]
    refused = [0.0] * seconds
    for call in calls:
        if not call.granted:
            refused[int(call.at)] += 1
        else:
            granted[call.process if scenario.processes <= 4 else 0][int(call.at)] += call.amount
    share = len(shown)
    quota = [scenario.quota(second + 0.5) / share for second in range(seconds)]
    return Panel(title or scenario.name, quota, granted, refused)


def picture(seed: int) -> str:
    """The plot of a few scenarios, as SVG."""
    panels = [
        panel(FIXED, 90, seed, title="600/min: found and held"),
        panel(UP, 60, seed, title="Ten times as much after 30 s"),
        panel(DOWN, 60, seed, title="A tenth as much after 30 s"),
        panel(SAWTOOTH, 120, seed, title="A quota that climbs and falls"),
        panel(LATE, 150, seed, title="4 processes, one comes 30 s late: a line each, quota ÷ 4"),
        panel(MANY, 90, seed, title="1,000 processes on one quota"),
    ]
    return draw(panels, CAPTION)


def main() -> int:
    """Prints the table; 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate_pacing", description="Simulates the pacer.")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--only", default="", metavar="NAME", help="scenarios whose name contains this")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers")
    parser.add_argument("--svg", type=Path, metavar="PATH", help="also draw a few of them into this file")
    arguments = parser.parse_args()
    print(HEAD)
    missed_any = False
    for scenario in itertools.chain(QUICK, () if arguments.quick else LONG):
        if arguments.only not in scenario.name:
            continue
        measured = measure(scenario, simulate(scenario, arguments.seed))
        missed = measured.misses(scenario.target)
        missed_any = missed_any or bool(missed)
        reached = "" if measured.reached_s is None else f"{measured.reached_s:.1f} s"
        jain = "" if measured.jain is None else f"{measured.jain:.3f}"
        print(
            f"| {scenario.name} | {measured.utilisation:.1%} | {measured.refused:.1%} | {reached} | {jain} "
            f"| {'; '.join(missed) or 'met'} |",
            flush=True,
        )
    if arguments.svg:
        arguments.svg.write_text(picture(arguments.seed), encoding="utf-8")
    return 1 if missed_any else 0


if __name__ == "__main__":
    raise SystemExit(main())
