"""The promises about the engine, each with the bout that shows whether it is kept."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from benchmarks.arena import Arena, Bout, Seen, Step
from benchmarks.findings import NAMES, Entry, Promise, Report, Sizes
from benchmarks.workload import Work

#: Beam code that people write today.
BEAM_PEERS: Final = ("run_inference", "run_inference_16", "naive_pardo", "thread_pool")


def latency(sizes: Sizes, **more: Any) -> dict[str, Any]:
    """Behaviour of a service in good health."""
    return {"latency": {"median_s": sizes.latency_s, "sigma": 0.35}, **more}


def window(arena: Arena, sizes: Sizes) -> Report:
    """256 calls in flight, no quota."""
    faults = latency(sizes)
    bouts = _rounds(arena, ("floor", "imagebeam", "genai_asyncio"), sizes.window, 256, faults, sizes.rounds)
    for name, images in sizes.slow_peers.items():
        bouts[name] = [arena.run(Work(name, images), faults=faults)]
    entries = [_entry(name, 256 if name in _WINDOWED else 0, runs) for name, runs in bouts.items()]
    by_name = {entry.contestant: entry for entry in entries}
    ours, floor = by_name["imagebeam"], by_name["floor"]
    best = max((by_name[name] for name in BEAM_PEERS), key=lambda entry: entry.steady_per_s)
    ratio, whole = ours.steady_per_s / floor.steady_per_s, ours.per_s / floor.per_s
    ahead = ours.steady_per_s / best.steady_per_s
    return Report(
        f"{sizes.latency_s:g} s median latency, 256 in flight, no quota",
        (
            Promise(
                "images/s, 256 in flight, against raw aiohttp with the same window",
                f"{ratio:.3f} ×",
                "≥ 0.97 ×",
                ratio >= 0.97,
                f"steady {ours.steady_per_s:.0f}/s against {floor.steady_per_s:.0f}/s; over the whole run, "
                f"slow start included, {whole:.3f} ×",
            ),
            Promise(
                "the same against the best Beam peer",
                f"{ahead:.1f} ×",
                "≥ 5 ×",
                ahead >= 5,
                f"{NAMES[best.contestant]}: {best.steady_per_s:.0f}/s; raw aiohttp, the most that a window of 256 "
                f"allows, is {floor.steady_per_s / best.steady_per_s:.1f} ×",
            ),
        ),
        tuple(entries),
    )


def wide(arena: Arena, sizes: Sizes) -> Report:
    """2,048 calls in flight, no quota: speed and memory."""
    faults = latency(sizes)
    bouts = _rounds(arena, ("floor", "imagebeam", "genai_asyncio"), sizes.wide, 2_048, faults, sizes.rounds)
    entries = {name: _entry(name, 2_048, runs) for name, runs in bouts.items()}
    ours, tuned, floor = entries["imagebeam"], entries["genai_asyncio"], entries["floor"]
    ratio = ours.steady_per_s / tuned.steady_per_s
    return Report(
        f"{sizes.latency_s:g} s median latency, 2,048 in flight, no quota",
        (
            Promise(
                "images/s, 2,048 in flight, against google-genai asyncio tuned by hand",
                f"{ratio:.2f} ×",
                "≥ 0.95 ×",
                ratio >= 0.95,
                f"steady {ours.steady_per_s:.0f}/s against {tuned.steady_per_s:.0f}/s; raw aiohttp gets "
                f"{floor.steady_per_s:.0f}/s with the server's core {floor.server_busy:.0%} busy",
            ),
            Promise(
                "peak memory of the worker, 2,048 in flight",
                f"{ours.peak_mb:.0f} MB",
                "≤ 260 MB",
                ours.peak_mb <= 260,
                f"raw aiohttp: {floor.peak_mb:.0f} MB, of which its request bodies, all made before, take "
                f"{_bodies_mb(sizes.wide):.0f}; the loop with google-genai: {tuned.peak_mb:.0f} MB; each with Beam "
                "imported",
            ),
        ),
        tuple(entries.values()),
    )


def cpu(arena: Arena, sizes: Sizes) -> Report:
    """Zero latency: what a call costs the worker."""
    bouts = _rounds(arena, ("floor", "imagebeam", "genai_asyncio"), sizes.cpu, 256, {}, sizes.rounds)
    entries = {name: _entry(name, 256, runs) for name, runs in bouts.items()}
    ours, tuned = entries["imagebeam"], entries["genai_asyncio"]
    ratio = ours.steady_cpu_ms / tuned.steady_cpu_ms
    return Report(
        "Zero latency, 256 in flight, no quota",
        (
            Promise(
                "CPU per image of the whole worker, against google-genai asyncio with default options",
                f"{ratio:.2f} ×",
                "≤ 0.75 ×",
                ratio <= 0.75,
                f"steady {ours.steady_cpu_ms:.2f} ms against {tuned.steady_cpu_ms:.2f} ms; over the whole run "
                f"{ours.cpu_ms:.2f} ms against {tuned.cpu_ms:.2f} ms",
            ),
        ),
        tuple(entries.values()),
    )


def quota(arena: Arena, sizes: Sizes) -> Report:
    """A fixed quota of requests that nobody told the pacer."""
    rate = 10 / sizes.time**0.5
    limit = {"requests_per_minute": 60 * rate, "burst": 10}
    bout = arena.run(Work("imagebeam", sizes.quota), faults=latency(sizes, quota=limit))
    took = bout.last_grant_at - bout.began_at
    used = (sizes.quota - 10) / rate / took
    return Report(
        "Fixed quota of requests",
        _paced(bout, f"{60 * rate:.0f} requests/min, burst 10, {sizes.quota} images", used, took),
    )


def token_quota(arena: Arena, sizes: Sizes) -> Report:
    """A quota of tokens, and units of 1 to 10 images."""
    per_minute = 1_500_000 / sizes.time
    burst = per_minute / 60
    limit = {"tokens_per_minute": per_minute, "burst_tokens": burst}
    bout = arena.run(Work("imagebeam", sizes.tokens, mixed=True), faults=latency(sizes, quota=limit))
    took = bout.last_grant_at - bout.began_at
    used = (bout.seen.tokens - burst) / (per_minute / 60) / took
    return Report(
        "Fixed quota of tokens, units of 1 to 10 images",
        _paced(bout, f"{per_minute:,.0f} tokens/min, {sizes.tokens} units", used, took),
    )


def _paced(bout: Bout, what: str, used: float, took: float) -> tuple[Promise, ...]:
    seen = bout.seen
    return (
        Promise(
            f"{what}: utilisation", f"{used:.1%}", "≥ 97 %", used >= 0.97, f"last call let through after {took:.1f} s"
        ),
        Promise(
            f"{what}: calls refused (429)",
            f"{seen.refused_share:.1%}",
            "≤ 2 %",
            seen.refused_share <= 0.02,
            f"{seen.refused} of {seen.calls}",
        ),
        _nothing_lost(what, bout),
    )


def quota_steps(arena: Arena, sizes: Sizes) -> Report:
    """The quota grows tenfold, and falls to a tenth again."""
    low, high = {"requests_per_minute": 600.0}, {"requests_per_minute": 6_000.0}
    at, until, end = (seconds * sizes.time for seconds in (30, 60, 75))
    bout = arena.run(
        Work("imagebeam", min(6_000, sizes.units), seconds=end),
        faults=latency(sizes, quota=low),
        steps=(Step(at, latency(sizes, quota=high)), Step(until, latency(sizes, quota=low))),
    )
    if len(bout.stepped_at) < 2:
        return Report("Quota × 10, quota ÷ 10", (Promise("quota × 10, ÷ 10", "over too soon", "", kept=False),))
    up, down = bout.stepped_at
    reached = _reached(bout, up, down, 85.0, window_s=2 * sizes.time)
    after = _rate(bout, up + 10 * sizes.time, down)
    first, last = bout.between(down, down + 10 * sizes.time)
    refused = (last.refused - first.refused) / max(last.calls - first.calls, 1)
    return Report(
        "Quota × 10, quota ÷ 10",
        (
            Promise(
                "quota × 10 (600 to 6,000/min): time to 85 % of the new rate",
                "never" if reached is None else f"{reached:.1f} s",
                "≤ 10 s",
                reached is not None and reached <= 10 and after >= 85,
                f"over 2 s; from the 10th second on {after:.0f} of 100/s",
            ),
            Promise(
                "quota ÷ 10: calls refused over the next 10 s",
                f"{refused:.1%}",
                "≤ 10 %",
                refused <= 0.1,
                f"{last.refused - first.refused} of {last.calls - first.calls}; "
                f"{(last.granted - first.granted) / (10 * sizes.time):.1f} of 10/s granted",
            ),
        ),
    )


def shared_quota(arena: Arena, sizes: Sizes) -> Report:
    """Four processes on one quota, without a word between them."""
    processes = 4 if sizes.time == 1 else 2
    seconds, each = 90 * sizes.time, 3_000 if sizes.time == 1 else 5
    works = [Work("imagebeam", each, first=index * each, in_flight=64, seconds=seconds) for index in range(processes)]
    per_s = 40.0
    bout = arena.run(*works, faults=latency(sizes, quota={"requests_per_minute": 60 * per_s}))
    began, end = bout.began_at, bout.began_at + seconds
    first, last = bout.between(began, end)
    used = (last.granted - per_s) / per_s / (last.at - began)
    refused = (last.refused - first.refused) / max(last.calls - first.calls, 1)
    third = began + seconds / 3
    shares = [result.done_between(third, end) for result in bout.results]
    fair = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares) or 1)
    what = f"{processes} processes on {60 * per_s:.0f} requests/min"
    return Report(
        "One quota, several processes",
        (
            Promise(f"{what}: utilisation", f"{used:.1%}", "≥ 95 %", used >= 0.95, "from the first call on"),
            Promise(f"{what}: calls refused (429)", f"{refused:.1%}", "≤ 3 %", refused <= 0.03, "as above"),
            Promise(
                f"{what}: fairness (Jain)",
                f"{fair:.3f}",
                "≥ 0.9",
                fair >= 0.9,
                f"images of each in the last {seconds * 2 / 3:.0f} s: {', '.join(map(str, sorted(shares)))}",
            ),
        ),
    )


def faults(arena: Arena, sizes: Sizes) -> Report:
    """2 % 503, 1 % broken connections, 1 % of the calls take 30 s longer."""
    slow_s = 30 * sizes.time
    work = Work("imagebeam", sizes.faulty)
    calm = arena.run(work, faults=latency(sizes))
    rules = [
        {"rate": 0.02, "do": "http", "code": 503},
        {"rate": 0.01, "do": "reset"},
        {"rate": 0.01, "do": "slow", "seconds": slow_s},
    ]
    bout = arena.run(work, faults=latency(sizes, rules=rules))
    limit = 1.15 * calm.result.wall_s + slow_s
    failed = bout.seen.by_status.get("503", 0) + bout.seen.by_status.get("reset", 0)
    needless = bout.seen.calls - failed - bout.seen.answered
    what = "2 % 503, 1 % resets, 1 % slow (30 s)"
    return Report(
        what,
        (
            _nothing_lost(what, bout),
            Promise(
                f"{what}: calls about units that were answered",
                f"{needless}",
                "0",
                needless == 0 and bout.seen.again == 0,
                f"{bout.seen.calls} calls, {failed} of them failed",
            ),
            Promise(
                f"{what}: wall time",
                f"{bout.result.wall_s:.1f} s",
                f"≤ {limit:.1f} s",
                bout.result.wall_s <= limit,
                f"1.15 × the fault-free {calm.result.wall_s:.1f} s, and one slow call",
            ),
        ),
    )


#: Name, and what runs it.
SCENARIOS: Final[Mapping[str, Callable[[Arena, Sizes], Report]]] = {
    "window": window,
    "wide": wide,
    "cpu": cpu,
    "quota": quota,
    "quota_steps": quota_steps,
    "shared_quota": shared_quota,
    "token_quota": token_quota,
    "faults": faults,
}

_WINDOWED: Final = ("floor", "imagebeam", "genai_asyncio")


def _nothing_lost(what: str, bout: Bout) -> Promise:
    return Promise(
        f"{what}: images lost", f"{bout.lost}", "0", bout.lost == 0 and bout.seen.again == 0,
        f"{bout.seen.again} answered twice",
    )  # fmt: skip


def _rounds(
    arena: Arena, names: Sequence[str], images: int, in_flight: int, behaviour: dict[str, Any], rounds: int
) -> dict[str, list[Bout]]:
    """Lets contestants take turns, so that whatever else the machine does meets all of them."""
    bouts: dict[str, list[Bout]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            bouts[name].append(arena.run(Work(name, images, in_flight=in_flight), faults=behaviour))
    return bouts


def _entry(name: str, in_flight: int, bouts: Sequence[Bout]) -> Entry:
    results, seen = [bout.result for bout in bouts], [bout.seen for bout in bouts]
    middle = statistics.median
    return Entry(
        contestant=name,
        in_flight=in_flight,
        images=results[0].images,
        per_s=middle(result.per_s for result in results),
        steady_per_s=middle(result.steady_per_s for result in results),
        cpu_ms=middle(result.cpu_ms for result in results),
        steady_cpu_ms=middle(result.steady_cpu_ms for result in results),
        peak_mb=max(result.peak_mb for result in results),
        max_in_flight=max(one.max_in_flight for one in seen),
        lost=sum(bout.lost for bout in bouts),
        again=sum(one.again for one in seen),
        server_busy=middle(_busy(bout.seen, bout) for bout in bouts),
    )


def _bodies_mb(images: int) -> float:
    work = Work("floor", 1)
    return images * len(orjson.dumps(work.body(work.all_units()[0]))) / 1e6


def _busy(seen: Seen, bout: Bout) -> float:
    return seen.cpu_s / bout.result.wall_s


def _rate(bout: Bout, start: float, end: float) -> float:
    """Calls let through per second between two times."""
    first, last = bout.between(start, end)
    return (last.granted - first.granted) / max(last.at - first.at, 1e-9)


def _reached(bout: Bout, start: float, end: float, rate: float, *, window_s: float) -> float | None:
    """Seconds from ``start`` until calls were let through at a rate for so long; None when never."""
    for look in bout.looks:
        if start + window_s <= look.at <= end and _rate(bout, look.at - window_s, look.at) >= rate:
            return look.at - start
    return None
