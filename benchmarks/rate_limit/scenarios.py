"""The scenarios of the rate limiter simulation: quotas and targets.

Scenarios without a target are for information only.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from benchmarks.rate_limit.simulator import MEAN_TOKENS, Scenario, Target, noisy, sawtooth, steady, step

SINGLE: Final = Target(utilization=0.97, refused=0.02)
SHARED: Final = Target(utilization=0.95, refused=0.03, jain=0.9)
SLOW_S: Final = (0.25, 0.35)
MANY_PROCESSES: Final = 1000

FIXED: Final = Scenario("fixed 600/min, 900 images", steady(10), 200, SINGLE, images=900)
UP: Final = Scenario("600/min × 10", step(10, 100), 60, Target(reached_s=10), measured=(40, None), reach=30)
DOWN: Final = Scenario("6,000/min ÷ 10, the next 10 s", step(100, 10), 60, Target(refused=0.1), measured=(30, 40))
SAWTOOTH: Final = Scenario("sawtooth, 1,200 to 6,000/min in 30 s", sawtooth(20, 100, 30), 240)
NOISY: Final = Scenario("others leave 30 to 100 % of 3,600/min, for 5 s each", noisy(60, 5, 1), 240)
FOUR: Final = Scenario("4 processes, 2,400/min", steady(40), 300, SHARED, processes=4)
LATE: Final = Scenario(
    "4 processes, 2,400/min, one 30 s late",
    steady(40),
    300,
    processes=4,
    starts=(0, 0, 0, 30),
    measured=(30, None),
)
MANY: Final = Scenario(
    "1,000 processes, 60,000/min, after the first minute",
    steady(1000),
    1200,
    SHARED,
    processes=MANY_PROCESSES,
    measured=(60, None),
)

QUICK: Final = (
    FIXED,
    dataclasses.replace(FIXED, name="the same, sizes mixed", mixed=True),
    dataclasses.replace(
        FIXED, name="as many tokens/min, sizes mixed", quota=steady(10 * MEAN_TOKENS), mixed=True, in_tokens=True
    ),
    Scenario(
        "2 M tokens/min, sizes mixed, after 10 s",
        steady(2e6 / 60),
        180,
        SINGLE,
        mixed=True,
        in_tokens=True,
        measured=(10, None),
    ),
    Scenario("6,000/min, after 10 s", steady(100), 90, measured=(10, None), reach=0),
    UP,
    DOWN,
    SAWTOOTH,
    NOISY,
    Scenario(
        "12,000/min, but no doubling within 10 s, after 60 s", steady(200), 120, accelerating=True, measured=(60, None)
    ),
    FOUR,
    dataclasses.replace(FOUR, name="4 processes, 600/min", quota=steady(10), seconds=600),
    LATE,
    dataclasses.replace(FIXED, name="fixed 600/min, bucket of 2 calls", target=Target(), burst_s=0.2),
    dataclasses.replace(UP, name="600/min × 10, bucket of 0.2 s", target=Target(), burst_s=0.2),
    dataclasses.replace(FIXED, name="fixed 600/min, 429s take 0.3 s", target=Target(), refusal_s=SLOW_S),
    dataclasses.replace(DOWN, name="6,000/min ÷ 10, 429s take 0.3 s", target=Target(), refusal_s=SLOW_S),
    dataclasses.replace(FOUR, name="4 processes, 2,400/min, 429s take 0.3 s", target=Target(), refusal_s=SLOW_S),
)
LONG: Final = (
    dataclasses.replace(FOUR, name="4 processes, 24,000/min", quota=steady(400)),
    Scenario("100 processes, 6,000/min", steady(100), 600, processes=100),
    dataclasses.replace(
        MANY, name="1,000 processes, 60,000/min, the first minute", seconds=60, target=Target(), measured=(0, None)
    ),
    MANY,
    dataclasses.replace(
        MANY,
        name="the same, starting one after the other over 30 s",
        target=Target(),
        starts=tuple(index * 0.03 for index in range(MANY_PROCESSES)),
    ),
)
