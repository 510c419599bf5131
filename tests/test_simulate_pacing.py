"""The simulator of the pacer: its command, its service and its picture."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from benchmarks import pacing_scenarios, pacing_world, simulate_pacing
from benchmarks.pacing_measures import Measured, measure, summarise
from benchmarks.pacing_plot import Panel, draw
from benchmarks.pacing_world import Call, Scenario, Service, Target, sawtooth, simulate, steady, step
from imagebeam.transforms.engine import rate_limiter

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def test_the_command_prints_a_row_and_draws_and_writes_it_into_a_page(tmp_path: Path) -> None:
    page, plot = tmp_path / "page.md", tmp_path / "plot.svg"
    page.write_text(f"# Before\n{simulate_pacing.BEGIN}\nold\n{simulate_pacing.END}\nAfter\n")
    command = [sys.executable, "-m", "benchmarks.simulate_pacing", "--quick", "--only=600/min × 10", "--runs=2"]
    done = subprocess.run(
        [*command, f"--write={page}", f"--svg={plot}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *head, first, second = done.stdout.splitlines()
    assert tuple(head) == simulate_pacing.HEAD
    assert re.fullmatch(
        r"\| 600/min × 10 \| 2 \| [\d.]+% \([\d.]+%\) \| [\d.]+% \([\d.]+%\) \| [\d.]+ s \([\d.]+ s\) \|  "
        r"\| ≤ 10 s \| met \|",
        first,
    )
    assert second.endswith("|  |  |")  # a row without a target has no verdict
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Before\n{simulate_pacing.BEGIN}\nMade by `python -m benchmarks.simulate_pacing --quick")
    assert "old" not in text
    assert f"{first}\n{second}\n{simulate_pacing.END}\nAfter\n" in text
    assert str(tmp_path) not in text
    assert ET.parse(plot).getroot().tag == f"{SVG}svg"


def test_a_missed_target_is_told_and_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    impossible = Scenario("too much", steady(10), 20, Target(utilisation=1.5, refused=0.0, reached_s=0.0), reach=0)
    assert simulate_pacing.main(["--quick", "--runs=1"], quick=[impossible]) == 1
    printed = capsys.readouterr().out
    assert "used ≥ 150%, 429s ≤ 0%, ≤ 0 s" in printed
    assert "**missed: utilisation < 150%; 429s > 0%; not reached in 0 s**" in printed


@pytest.mark.parametrize("wrong", ["--only=no such scenario", "--runs=0", "--seeds=3"])
def test_what_cannot_be_meant_is_an_error(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        simulate_pacing.main([wrong])
    assert stopped.value.code == 2
    assert wrong.split("=")[0] in capsys.readouterr().err


def test_a_page_without_marks_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="table: begin"):
        simulate_pacing.between_marks("# A page\n", ["| a |"], "command")


def test_one_seed_gives_one_run_and_another_seed_another() -> None:
    scenario = Scenario("short", steady(20), 20, mixed=True)
    assert simulate(scenario, 3) == simulate(scenario, 3) != simulate(scenario, 4)


@hypothesis.given(
    quota=st.builds(steady, st.floats(1, 200))
    | st.builds(step, st.floats(1, 200), st.floats(1, 200), st.floats(0, 20))
    | st.builds(sawtooth, st.floats(1, 50), st.floats(50, 200), st.floats(1, 20)),
    burst_s=st.floats(0.0, 3.0),
    gaps=st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.0]), min_size=1, max_size=300),
)
def test_the_service_never_grants_more_than_its_bucket_and_what_refilled_it(
    quota: pacing_world.Quota, burst_s: float, gaps: list[float]
) -> None:
    service = Service(Scenario("any", quota, 1000, burst_s=burst_s))
    now, most = 0.0, max(1.0, burst_s * quota(0.0))
    granted = refilled = 0.0
    for gap in gaps:
        refilled += sum(quota(now + gap * (part + 0.5) / 1000) for part in range(1000)) * gap / 1000
        now += gap
        if service.grant(now, 1.0):
            granted += 1
        else:
            granted, refilled, most = 0.0, 0.0, 1.0  # less than one call is left
        # A step of the quota in the midst of a refill is seen to a fortieth of a second.
        assert granted <= most + refilled + 200 / 40 + 1e-6 * granted


@hypothesis.given(per_s=st.floats(0.5, 500), calls=st.integers(1, 300))
def test_the_service_grants_whoever_keeps_to_its_quota(per_s: float, calls: int) -> None:
    service = Service(Scenario("any", steady(per_s), 1000, burst_s=0.0))
    assert all(service.grant(call * 1.000001 / per_s, 1.0) for call in range(calls))


def test_a_service_that_wants_gentle_rises_refuses_a_sharp_one() -> None:
    service = Service(Scenario("any", steady(1000), 1000, accelerating=True))
    assert sum(service.grant(5 + call / 1000, 1.0) for call in range(900)) == 10


def test_what_is_measured_is_what_happened() -> None:
    scenario = Scenario("any", steady(2), 10, processes=2, burst_s=0.0, measured=(2, None), reach=2)
    early = [Call(1.0, 0, granted=True, amount=1.0)] * 99
    calls = [Call(2 + n * 0.5, n % 2, granted=n % 4 != 3, amount=1.0) for n in range(16)]
    measured = measure(scenario, early + calls)
    assert measured.utilisation == pytest.approx(12 / 16)
    assert measured.refused == pytest.approx(4 / 16)
    assert measured.jain == pytest.approx(12**2 / (2 * (8**2 + 4**2)))
    assert measured.reached_s == pytest.approx(0.5)


def test_a_time_that_one_run_never_reached_is_never_reached_on_average() -> None:
    runs = [Measured(1.0, 0.01, 3.0, None), Measured(0.9, 0.03, None, None)]
    summary = summarise(runs)
    assert (summary.mean.utilisation, summary.mean.refused) == pytest.approx((0.95, 0.02))
    assert summary.mean.reached_s is None
    assert summary.worst == Measured(0.9, 0.03, None, None)
    assert summary.misses(Target(reached_s=10)) == ["not reached in 10 s"]
    assert summary.misses(Target(utilisation=0.94, refused=0.021)) == []
    assert summarise(runs[:1]).misses(Target(reached_s=10)) == []


def test_only_what_is_promised_has_a_target() -> None:
    promised = ("fixed 600/min", "sizes mixed", "600/min × 10", "next 10 s", "4 processes", "1,000 processes")
    for scenario in (*pacing_scenarios.QUICK, *pacing_scenarios.LONG):
        if scenario.target != Target():
            assert any(part in scenario.name for part in promised)
    names = [scenario.name for scenario in (*pacing_scenarios.QUICK, *pacing_scenarios.LONG)]
    assert len(set(names)) == len(names)


def test_titles_are_escaped_and_bars_that_are_cut_off_are_told() -> None:
    title = """<script>alert("1 & 2")</script> 'quoted'"""
    text = draw([Panel(title, [10.0, 10.0], [[9.0, 10.0]], [0.0, 1234.0])], f"caption: {title}")
    texts = [element.text for element in ET.fromstring(text).iter(f"{SVG}text")]
    assert title in texts
    assert f"caption: {title}" in texts
    assert "↑ 1,234 refused" in texts
    assert "script" not in {element.tag.removeprefix(SVG) for element in ET.fromstring(text).iter()}


def test_the_page_shows_the_constants_as_they_are_and_the_table_and_the_picture() -> None:
    page = (ROOT / "docs" / "rate-limiting.md").read_text(encoding="utf-8")
    shown: dict[str, float] = {}
    for names, values in re.findall(r"^\| (`[A-Z_`, ]+) \| ([\d., ]+) \|", page, flags=re.MULTILINE):
        numbers = [float(value) for value in values.split(", ")]
        shown |= dict(zip(re.findall(r"[A-Z_]+", names), numbers, strict=True))
    assert shown == {name: getattr(rate_limiter, name) for name in shown}
    bounds = {"MAX_PER_S", "MIN_PER_S", "BURST_S", "ROUNDING"}
    assert set(shown) == {name for name in vars(rate_limiter) if name.isupper()} - bounds
    assert all(f"| {scenario.name} |" in page for scenario in (*pacing_scenarios.QUICK, *pacing_scenarios.LONG))
    ET.parse(ROOT / "docs" / "rate-limiting.svg")
