"""The budget: never exceeded, by any number of processes and with crashes; nearly all of it is usable."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import google.cloud.storage as gcs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.engine.budget import Budget, Reservation, list_taken_shares
from imagebeam.transforms.engine.budget_shares import MAX_SHARES, ShareAllocator
from imagebeam.transforms.engine.settings import Caps

MAX_CALL = Decimal("0.003")
NOTHING = Decimal(0)
ENDLESS = 1_000_000


async def at_once(call: Callable[[], Any]) -> Any:
    return call()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, timeout=240))


def budget(directory: Path | str, usd: str | None, calls: int | None = None, **more: Any) -> Budget:
    given: dict[str, Any] = {"processes": 1, "max_call_usd": MAX_CALL, **more}
    blocking = given.pop("blocking", at_once)
    cap = None if usd is None else Decimal(usd)
    return Budget(Caps(str(directory), max_cost_usd=cap, max_calls=calls, **given), blocking)


async def reserved(budget: Budget, max_call: Decimal = MAX_CALL) -> Reservation:
    reservation = await budget.reserve(max_call)
    assert reservation is not None
    return reservation


async def waiting(budget: Budget, max_call: Decimal = MAX_CALL) -> asyncio.Task[Reservation | None]:
    """A caller that has come to the point where it waits."""
    task = asyncio.get_running_loop().create_task(budget.reserve(max_call))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    return task


# -- shares ------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**15), st.integers(0, 10**12), st.integers(1, 2000))
def test_shares_of_a_cap_are_equal_and_add_up_to_it(cap: int, max_call: int, processes: int) -> None:
    allocator = ShareAllocator("usd", cap, max_call=max_call, processes=processes, order=random.Random(1))
    values = [allocator.value(number) for number in range(allocator.count)]
    assert sum(values) == cap
    assert max(values) - min(values) <= 1
    assert allocator.count <= MAX_SHARES
    assert min(values) >= min(cap, max_call), "a share pays for a call"


def test_share_is_at_most_one_percent_of_the_part_of_a_process() -> None:
    allocator = ShareAllocator("usd", 10**9, max_call=10**3, processes=4, order=random.Random(1))
    assert allocator.value(0) == 10**9 // 400


def test_processes_try_shares_in_different_orders() -> None:
    first, second = (
        ShareAllocator("usd", 10**9, max_call=1, processes=1, order=random.Random(seed)).select(10**9, at_most=100)
        for seed in (1, 2)
    )
    assert first != second
    assert sorted(first) == sorted(second) == list(range(100))


# -- one process -------------------------------------------------------------------------------------------


def test_grants_at_once_while_there_is_credit(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "3", calls=1000)
        (await reserved(shared)).settle(NOTHING, sent=False)
        with pytest.raises(StopIteration):  # the coroutine ends without giving the loop a turn
            shared.reserve(MAX_CALL).send(None)

    run(work())


def test_spends_the_whole_cap_and_reports_its_end(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.03")
        for _ in range(10):
            (await reserved(shared)).settle(MAX_CALL, sent=True)
        assert shared.reason is None
        assert await shared.reserve(MAX_CALL) is None
        assert shared.reason == "budget: --max_cost_usd=0.03 is used up"
        assert await shared.reserve(Decimal("1e-9")) is None, "the end is the end"

    run(work())


def test_counts_calls_but_not_throttled_ones(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, None, calls=3)
        for sent in (False, True, False, True, True):
            (await reserved(shared)).settle(NOTHING, sent=sent)
        assert await shared.reserve(MAX_CALL) is None
        assert shared.reason == "budget: --max_calls=3 is used up"

    run(work())


def test_returns_what_a_call_did_not_cost(tmp_path: Path) -> None:
    async def work() -> None:
        shared, calls = budget(tmp_path, "0.03"), 0
        while (reservation := await shared.reserve(MAX_CALL)) is not None:
            reservation.settle(MAX_CALL / 10, sent=True)
            calls += 1
        assert calls == 91, "until less than one maximum cost is left"

    run(work())


def test_charges_the_maximum_cost_of_a_call_of_unknown_cost(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.009", calls=100)
        (await reserved(shared)).settle(None, sent=True)
        with pytest.raises(ZeroDivisionError), await reserved(shared):
            raise ZeroDivisionError
        with await reserved(shared) as third:
            third.settle(MAX_CALL, sent=True)
        assert await shared.reserve(MAX_CALL) is None

    run(work())


def test_reservation_is_settled_once(tmp_path: Path) -> None:
    async def work() -> None:
        reservation = await reserved(budget(tmp_path, "1"))
        reservation.settle(NOTHING, sent=True)
        with pytest.raises(ValueError, match="already settled"):
            reservation.settle(NOTHING, sent=True)

    run(work())


def test_end_waits_for_calls_in_flight(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.006")
        first, second = await reserved(shared), await reserved(shared)
        third = await waiting(shared)
        first.settle(MAX_CALL, sent=True)
        await asyncio.sleep(0)
        assert not third.done(), "the second may still give back"
        second.settle(NOTHING, sent=True)
        granted = await third
        assert granted is not None
        granted.settle(MAX_CALL, sent=True)
        assert await shared.reserve(MAX_CALL) is None

    run(work())


def test_last_call_in_flight_decides_for_all_waiting_callers(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.003")
        last = await reserved(shared)
        waiters = [await waiting(shared) for _ in range(5)]
        last.settle(MAX_CALL / 2, sent=True)
        assert await asyncio.gather(*waiters) == [None] * 5

    run(work())


def test_serves_callers_in_order_even_if_a_later_one_needs_less(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.006")
        held = [await reserved(shared), await reserved(shared)]
        large = await waiting(shared, 2 * MAX_CALL)
        held[0].settle(NOTHING, sent=True)
        small = await waiting(shared)
        held[1].settle(NOTHING, sent=True)
        granted = await large
        assert granted is not None
        assert not small.done()
        granted.settle(MAX_CALL, sent=True)
        assert await small is not None

    run(work())


def test_call_that_can_never_be_granted_ends_the_budget(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.006")
        held = await reserved(shared)
        large, small = await waiting(shared, 3 * MAX_CALL), await waiting(shared)
        held.settle(NOTHING, sent=True)
        assert await large is None
        assert await small is None

    run(work())


def test_serves_the_next_caller_after_a_canceled_one(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.006")
        await reserved(shared)
        large, small = await waiting(shared, 2 * MAX_CALL), await waiting(shared)
        large.cancel()
        assert await asyncio.wait_for(small, 5) is not None

    run(work())


def test_rounds_parts_of_a_nano_dollar_up(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.0000000059", max_call_usd=NOTHING)
        for _ in range(2):
            (await reserved(shared, Decimal("1.1e-9"))).settle(Decimal("1.1e-9"), sent=True)
        assert await shared.reserve(Decimal("1.1e-9")) is None

    run(work())


def test_late_process_does_not_try_every_share(tmp_path: Path) -> None:
    tries = 0

    async def counting(call: Callable[[], Any]) -> Any:
        nonlocal tries
        tries += 1
        return call()

    async def work() -> None:
        first = budget(tmp_path, None, calls=1000)
        for _ in range(1000):
            (await reserved(first)).settle(NOTHING, sent=True)
        assert len(list_taken_shares(f"{tmp_path}/notes", "calls")) == 100
        assert await budget(tmp_path, None, calls=1000, blocking=counting).reserve(MAX_CALL) is None
        assert tries == 2, "one share, and the list of them"

    run(work())


def test_canceled_caller_keeps_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.006")
        held = await reserved(shared, 2 * MAX_CALL)
        first, second, third = await waiting(shared, 2 * MAX_CALL), await waiting(shared), await waiting(shared)
        first.cancel()
        await asyncio.sleep(0)
        held.settle(MAX_CALL, sent=True)  # grants the second one ...
        second.cancel()  # ... which is gone before it can take it
        granted = await third
        assert granted is not None
        granted.settle(MAX_CALL, sent=True)
        assert await shared.reserve(MAX_CALL) is None

    run(work())


def test_closing_the_budget_returns_none_to_waiting_callers(tmp_path: Path) -> None:
    async def work() -> None:
        shared = budget(tmp_path, "0.003")
        held = await reserved(shared)
        waiter = await waiting(shared)
        shared.close()
        assert await waiter is None
        assert await shared.reserve(MAX_CALL) is None
        assert shared.reason is None, "it did not end because of a cap"
        held.settle(MAX_CALL, sent=True)

    run(work())


def test_closing_while_a_share_is_taken_leaves_no_task_behind(tmp_path: Path) -> None:
    async def work() -> None:
        async def never(call: Callable[[], Any]) -> Any:
            await asyncio.Event().wait()

        shared = budget(tmp_path, "1", blocking=never)
        waiter = await waiting(shared)
        shared.close()
        assert await waiter is None
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())


def test_warns_once_about_a_call_above_its_maximum_cost_and_charges_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        shared, paid = budget(tmp_path, "0.03"), Decimal(0)
        while (reservation := await shared.reserve(MAX_CALL)) is not None:
            paid += 2 * MAX_CALL
            reservation.settle(2 * MAX_CALL, sent=True)
        assert paid <= Decimal("0.03") + MAX_CALL

    with caplog.at_level(logging.WARNING):
        run(work())
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "a call cost $0.006000000, more than its estimated maximum of $0.003000000"
    ]


def test_reports_unwritable_storage_and_retries(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.write_text("a file where the directory should be")

    async def work() -> None:
        shared = budget(directory, "3")
        for _ in range(2):
            with pytest.raises(SystemicError, match=r"cannot take budget shares in .*/run/notes"):
                await shared.reserve(MAX_CALL)
        directory.unlink()
        assert await shared.reserve(MAX_CALL)

    run(work())


def test_owns_a_share_whose_creation_returned_an_error(tmp_path: Path) -> None:
    async def loses_answers(call: Callable[[], Any]) -> Any:
        got = call()
        if lost:
            raise ConnectionError(lost.pop())
        return got

    lost = ["no answer"]

    async def work() -> None:
        shared, calls = budget(tmp_path, "0.03", blocking=loses_answers), 0
        with pytest.raises(SystemicError, match="no answer"):
            await shared.reserve(MAX_CALL)
        while (reservation := await shared.reserve(MAX_CALL)) is not None:
            reservation.settle(MAX_CALL, sent=True)
            calls += 1
        assert calls == 10

    run(work())


# -- several processes -------------------------------------------------------------------------------------


@dataclasses.dataclass
class World:
    """Simulated processes that share a directory, and what they really paid and sent."""

    directory: str
    usd: Decimal | None
    calls: int | None
    processes: int
    chance: random.Random
    trouble: bool = False
    paid: Decimal = Decimal(0)
    sent: int = 0

    async def pass_time(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)

    async def slow(self, call: Callable[[], Any]) -> Any:
        await self.pass_time()
        got = call()
        await self.pass_time()
        return got

    async def process(self, callers: int, crash_after: int | None, work: int = ENDLESS) -> Budget:
        shared = Budget(Caps(self.directory, self.usd, self.calls, self.processes, MAX_CALL), self.slow)
        tasks = [asyncio.create_task(self.caller(shared, work)) for _ in range(callers)]
        if crash_after is None:
            await asyncio.gather(*tasks)
            return shared
        for _ in range(crash_after):
            await asyncio.sleep(0)
        for task in tasks:  # calls in flight are paid for, and return nothing
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await self.process(callers, None)

    async def caller(self, shared: Budget, work: int) -> None:
        for _ in range(work):
            await self.pass_time()
            max_call = MAX_CALL * self.chance.choice((1, 1, 1, Decimal("0.9")))
            reservation = await shared.reserve(max_call)
            if reservation is None:
                return
            if self.chance.random() < 0.1:  # refused for quota
                await self.pass_time()
                reservation.settle(NOTHING, sent=False)
                continue
            cost = max_call * self.chance.randrange(10, 101 if work == ENDLESS else 12) / 100
            self.paid += cost
            self.sent += 1
            with reservation:
                await self.pass_time()
                if self.trouble and self.chance.random() < 0.02:
                    continue  # its cost is unknown
                reservation.settle(cost, sent=True)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    crashes=st.lists(st.none() | st.integers(0, 300), min_size=1, max_size=4),
    callers=st.integers(1, 12),
    max_calls_paid=st.none() | st.integers(1, 60),
    calls=st.none() | st.integers(1, 300),
)
def test_crashing_and_restarted_processes_never_exceed_a_cap(
    seed: int, crashes: list[int | None], callers: int, max_calls_paid: int | None, calls: int | None
) -> None:
    usd = MAX_CALL * max_calls_paid if max_calls_paid else None
    calls = 100 if calls is None and usd is None else calls

    async def work() -> None:
        await asyncio.gather(*(world.process(callers, crash) for crash in crashes))

    with tempfile.TemporaryDirectory() as directory:
        world = World(directory, usd, calls, len(crashes), random.Random(seed), trouble=True)
        run(work())
    assert usd is None or world.paid <= usd
    assert calls is None or world.sent <= calls


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), processes=st.integers(1, 4), callers=st.integers(1, 12))
def test_uses_98_percent_of_the_money_without_crashes(seed: int, processes: int, callers: int) -> None:
    usd = 50 * processes * MAX_CALL

    async def work() -> None:
        ended = await asyncio.gather(*(world.process(callers, None) for _ in range(processes)))
        assert {one.reason for one in ended} == {f"budget: --max_cost_usd={usd:f} is used up"}

    with tempfile.TemporaryDirectory() as directory:
        world = World(directory, usd, None, processes, random.Random(seed))
        run(work())
        assert list_taken_shares(f"{directory}/notes", "usd") == set(range(50 * processes))
    assert Decimal("0.98") * usd <= world.paid <= usd


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    processes=st.integers(1, 4),
    callers=st.integers(1, 12),
    calls=st.integers(1, 1500),
)
def test_uses_every_call_without_crashes(seed: int, processes: int, callers: int, calls: int) -> None:
    async def work() -> None:
        await asyncio.gather(*(world.process(callers, None) for _ in range(processes)))

    with tempfile.TemporaryDirectory() as directory:
        world = World(directory, None, calls, processes, random.Random(seed))
        run(work())
    assert world.sent == calls


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    works=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    callers=st.integers(1, 100),
    in_calls=st.booleans(),
)
def test_idle_processes_hold_at_most_a_quarter_of_the_cap(
    seed: int, works: list[int], callers: int, *, in_calls: bool
) -> None:
    processes = len(works) + 1
    usd, calls = (None, 400) if in_calls else (20 * processes * MAX_CALL, None)

    async def work() -> None:
        idle = [world.process(callers, None, work) for work in works]
        await asyncio.gather(world.process(4, None), *idle)

    with tempfile.TemporaryDirectory() as directory:
        world = World(directory, usd, calls, processes, random.Random(seed))
        run(work())
    if usd is not None:
        assert Decimal("0.75") * usd - processes * MAX_CALL <= world.paid <= usd
    else:
        assert 300 <= world.sent <= 400


@pytest.mark.parametrize(("usd", "calls"), [("3", None), (None, 1000), ("3", 1000)])
def test_one_process_leaves_shares_to_the_others(tmp_path: Path, usd: str | None, calls: int | None) -> None:
    async def work() -> None:
        first, second = (budget(tmp_path, usd, calls, processes=2) for _ in range(2))
        for shared in (first, second):
            tasks = [asyncio.create_task(shared.reserve(MAX_CALL)) for _ in range(1000)]
            for _ in range(2000):
                await asyncio.sleep(0)
            under_way = sum(task.done() for task in tasks)
            assert 120 <= under_way <= 125, "an eighth of the thousand calls that the cap pays for"
            shared.close()

    run(work())


PROGRAM = """
import asyncio, os, random, sys
from decimal import Decimal
from imagebeam.transforms.engine.budget import Budget
from imagebeam.transforms.engine.settings import Caps

directory, log, usd, calls, processes, seed = sys.argv[1:]
chance = random.Random(int(seed))
max_call = Decimal("0.003")

async def caller(budget, file):
    while (reservation := await budget.reserve(max_call)) is not None:
        cost = max_call * chance.randrange(10, 60) / 100
        os.write(file, f"{cost}\\n".encode())  # at the moment of sending: a crash loses nothing of it
        await asyncio.sleep(chance.random() / 500)
        reservation.settle(cost, sent=True)

async def main():
    caps = Caps(
        directory, max_cost_usd=Decimal(usd) if usd != "-" else None,
        max_calls=int(calls) if calls != "-" else None, processes=int(processes), max_call_usd=max_call,
    )
    budget = Budget(caps, asyncio.to_thread)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    await asyncio.gather(*(caller(budget, file) for _ in range(8)))
    print(budget.reason, flush=True)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


def start(directory: str, logs: Path, *caps: str, processes: int) -> list[subprocess.Popen[str]]:
    """Real processes, all at the starting line before the first may go."""
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                directory,
                str(logs / f"{seed}.log"),
                *caps,
                str(processes),
                str(seed),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return started


def ended(processes: list[subprocess.Popen[str]]) -> set[str]:
    return {process.communicate(timeout=240)[0].strip() for process in processes}


def costs(logs: Path) -> list[list[Decimal]]:
    return [[Decimal(line) for line in log.read_text().split()] for log in sorted(logs.glob("*.log"))]


@pytest.mark.long
def test_real_processes_share_a_cap(tmp_path: Path) -> None:
    usd = Decimal("1.2")
    reasons = ended(start(str(tmp_path / "run"), tmp_path, str(usd), "-", processes=4))
    assert reasons == {"budget: --max_cost_usd=1.2 is used up"}
    by_process = costs(tmp_path)
    assert all(by_process), "each had a part in it"
    assert Decimal("0.98") * usd <= sum(map(sum, by_process)) <= usd


def test_killed_process_loses_only_what_it_held(tmp_path: Path) -> None:
    usd = Decimal("1.2")
    processes = start(str(tmp_path / "run"), tmp_path, str(usd), "-", processes=3)
    while len(costs(tmp_path)) < 3 or len(costs(tmp_path)[0]) < 30:
        assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    ended(processes)
    paid = sum(map(sum, costs(tmp_path)))
    held = 8 * MAX_CALL + usd / 300
    assert usd - held - 3 * MAX_CALL <= paid <= usd


# -- gs:// -------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(cloud: LocalCloud) -> str:
    return f"gs://{gcs.Client().create_bucket(f'budget-{secrets.token_hex(4)}').name}"


def test_shares_are_objects_of_the_run_directory(bucket: str) -> None:
    async def work() -> None:
        shared = budget(f"{bucket}/runs/r1", "0.03", calls=5, blocking=asyncio.to_thread)
        for _ in range(5):
            (await reserved(shared)).settle(MAX_CALL, sent=True)
        assert await shared.reserve(MAX_CALL) is None
        assert shared.reason == "budget: --max_calls=5 is used up"

    run(work())
    assert list_taken_shares(f"{bucket}/runs/r1/notes", "calls") == set(range(5))
    assert len(list_taken_shares(f"{bucket}/runs/r1/notes", "usd")) == 5
    assert list_taken_shares(f"{bucket}/runs/r1/notes", "other") == set()
    assert storage.read(f"{bucket}/runs/r1/notes/calls-0") is not None


@pytest.mark.long
def test_real_processes_share_a_cap_in_cloud_storage(bucket: str, tmp_path: Path) -> None:
    reasons = ended(start(f"{bucket}/runs/r2", tmp_path, "0.6", "150", processes=3))
    assert reasons == {"budget: --max_calls=150 is used up"}
    assert sum(map(len, costs(tmp_path))) == 150
