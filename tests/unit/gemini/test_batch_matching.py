"""Matching a job's output with its manifest: every unit and every line is counted once, in any order."""

import functools
import random
import tracemalloc
from collections.abc import Iterable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.records import Answer, Status
from imagebeam.transforms.gemini.batch_matching import Cause, Matched, Missing, ShardMatcher, Unmatched
from imagebeam.transforms.gemini.batch_requests import key_of
from imagebeam.transforms.gemini.batch_responses import parse_answer, parse_line
from imagebeam.transforms.tasks.task import Task

TASK = Task("look", "", "m", "Look.")
READ = functools.partial(parse_answer, task=TASK)
OK, BUSY, BLOCKED = "OK", "BUSY", "BLOCKED"
RESPONSES = {
    OK: {
        "response": {"candidates": [{"content": {"parts": [{"text": "fine"}]}, "finishReason": "STOP"}]},
        "status": "",
    },
    BUSY: {"response": {}, "status": 'Service Unavailable: {"error": {"code": 503, "message": "busy"}}'},
    BLOCKED: {"response": {"promptFeedback": {"blockReason": "SAFETY"}}, "status": ""},
}


def uris_of(entry: bytes) -> list[str]:
    return list(orjson.loads(entry)["uris"])


def shard(*images: str) -> list[tuple[str, bytes]]:
    """A manifest of units with these images each; several are separated by commas."""
    return [
        (f"k-{number}", orjson.dumps({"unit": number, "uris": text.split(",")})) for number, text in enumerate(images)
    ]


def written(kind: str, key: str | None = None, images: str = "") -> bytes:
    parts = [{"fileData": {"fileUri": uri}, "text": None} for uri in images.split(",") if uri]
    fields = {"request": {"contents": [{"parts": [*parts, {"text": "Look.", "fileData": None}]}]}, **RESPONSES[kind]}
    return orjson.dumps({"custom_id": key, **fields} if key else fields)


def run(
    manifest: list[tuple[str, bytes]], lines: Iterable[bytes]
) -> tuple[dict[str, Matched], list[Missing], list[Unmatched], ShardMatcher]:
    matcher = ShardMatcher(manifest, READ, uris_of)
    fed = [item for raw in lines if (item := matcher.feed_line(parse_line(raw))) is not None]
    found = [*fed, *matcher.finish()]
    matched = [item for item in found if isinstance(item, Matched)]
    assert len({item.key for item in matched}) == len(matched)
    assert all(dict(manifest)[item.key] == item.entry for item in matched)
    missing = [item for item in found if isinstance(item, Missing)]
    unmatched = [item for item in found if isinstance(item, Unmatched)]
    counts = matcher.counts
    assert (counts.matched, counts.missing, counts.unmatched) == (len(matched), len(missing), len(unmatched))
    assert counts.submitted == counts.matched + counts.missing == len(manifest)
    assert counts.lines == counts.matched + counts.duplicates + counts.unmatched
    assert counts.ok == sum(item.answer.ok for item in matched)
    return {item.key: item for item in matched}, missing, unmatched, matcher


def test_matches_lines_by_key_in_any_order() -> None:
    matched, missing, unmatched, _ = run(shard("a", "b", "c"), [written(OK, "k-2"), written(BUSY, "k-0")])
    assert {key: item.answer.status for key, item in matched.items()} == {
        "k-2": Status.OK,
        "k-0": Status.UNAVAILABLE,
    }
    assert [item.key for item in missing] == ["k-1"]
    assert unmatched == []


def test_returns_answers_at_once_and_failures_at_the_end() -> None:
    matcher = ShardMatcher(shard("a", "b"), READ, uris_of)
    assert matcher.feed_line(parse_line(written(BUSY, "k-0"))) is None
    assert isinstance(matcher.feed_line(parse_line(written(OK, "k-1"))), Matched)
    [failed] = matcher.finish()
    assert isinstance(failed, Matched)
    assert (failed.key, failed.answer.reason, failed.answer.retryable) == ("k-0", "HTTP_503", True)


def test_matches_by_images_without_a_key() -> None:
    matched, missing, unmatched, matcher = run(
        shard("a", "b,c", "c,b", "b"),
        [written(OK, None, "c,b"), written(BLOCKED, None, "a"), written(OK, None, "b"), written(OK, None, "d")],
    )
    assert sorted(matched) == ["k-0", "k-2", "k-3"]
    assert [item.key for item in missing] == ["k-1"]
    assert [item.cause for item in unmatched] == [Cause.FOREIGN]
    assert matcher.counts.by_uri == 3


def test_images_of_several_units_are_ambiguous() -> None:
    # Also when one of the two is answered already: the line may be about either.
    lines = [written(OK, "k-0", "a"), written(OK, None, "a")]
    matched, missing, unmatched, _ = run(shard("a", "a"), lines)
    assert list(matched) == ["k-0"]
    assert [item.key for item in missing] == ["k-1"]
    assert [item.cause for item in unmatched] == [Cause.AMBIGUOUS]


def test_foreign_key_is_never_matched_by_images() -> None:
    _, missing, unmatched, _ = run(shard("a"), [written(OK, "k-of-another-task", "a")])
    assert len(missing) == 1
    assert [item.cause for item in unmatched] == [Cause.FOREIGN]
    assert "k-of-another-task" in unmatched[0].text


def test_keeps_damaged_lines_and_lines_without_key_and_images() -> None:
    _, _, unmatched, _ = run(shard("a"), [written(OK), written(OK, "k-0")[:-3], b"", b"[]"])
    assert [item.cause for item in unmatched] == [Cause.NAMELESS, *[Cause.UNREADABLE] * 3]
    assert unmatched[1].text.startswith('{"custom_id":"k-0"')


def test_first_answer_wins() -> None:
    other = written(OK, "k-0").replace(b"fine", b"later")
    lines = [written(BUSY, "k-0"), written(OK, "k-0"), other, written(BLOCKED, None, "a")]
    matched, _, _, matcher = run(shard("a"), lines)
    assert matched["k-0"].answer.value == {"text": "fine"}
    assert (matcher.counts.matched, matcher.counts.duplicates) == (1, 3)


def test_first_failure_wins() -> None:
    matched, _, _, _ = run(shard("a"), [written(BLOCKED, "k-0"), written(BUSY, "k-0")])
    assert matched["k-0"].answer.status is Status.BLOCKED


def test_empty_output_leaves_every_unit_missing() -> None:
    assert len(run(shard("a", "b"), [])[1]) == 2
    assert run([], [written(OK, "k-0")])[2][0].cause is Cause.FOREIGN


def test_rejects_a_manifest_with_duplicate_keys() -> None:
    with pytest.raises(ValueError, match="k-0"):
        ShardMatcher([*shard("a"), *shard("b")], READ, uris_of)


LINES = st.lists(
    st.one_of(
        st.builds(
            written,
            st.sampled_from([OK, BUSY, BLOCKED]),
            st.none() | st.sampled_from([f"k-{number}" for number in range(8)]),
            st.sampled_from(["", "a", "b", "a,b", "c"]),
        ),
        st.binary(max_size=20),
        st.builds(written, st.just(OK), st.just("k-0")).map(lambda raw: raw[:-7]),
    ),
    max_size=30,
)


@given(st.lists(st.sampled_from(["a", "b", "a,b", "d"]), max_size=6), LINES)
def test_counts_reconcile_for_any_output(images: list[str], lines: list[bytes]) -> None:
    matched, _, _, _ = run(shard(*images), lines)  # which checks them
    for key, item in matched.items():
        about = [raw for raw in lines if key_in(raw) == key]
        assert item.answer.ok or not any(b"fine" in raw for raw in about)


@given(st.lists(st.sampled_from(["a", "b", "a,b", "d"]), max_size=6), LINES, st.randoms(use_true_random=False))
def test_order_of_lines_does_not_matter(images: list[str], lines: list[bytes], rng: random.Random) -> None:
    shuffled = list(lines)
    rng.shuffle(shuffled)
    one, other = run(shard(*images), lines), run(shard(*images), shuffled)
    assert one[3].counts == other[3].counts
    assert {key: item.answer.ok for key, item in one[0].items()} == {
        key: item.answer.ok for key, item in other[0].items()
    }


def key_in(raw: bytes) -> str | None:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return document.get("custom_id") if isinstance(document, dict) else None


@pytest.mark.parametrize("with_key", ["with keys", "without keys"])
def test_unit_takes_less_than_400_bytes_beside_its_manifest_line(with_key: str) -> None:
    # With slightly more than 2/3 of 2**14 units Python's dicts and sets are as empty as possible: most bytes per unit.
    units = 10_930
    uris = [f"gs://street/{number:06d}.jpg" for number in range(units)]
    entries = [orjson.dumps({"uris": [uri]}) for uri in uris]
    answered = Answer(Status.OK, value={})
    tracemalloc.start()
    try:
        manifest = ((key_of(uri, "d", "v"), entry) for uri, entry in zip(uris, entries, strict=True))
        matcher = ShardMatcher(manifest, lambda _: answered, uris_of)
        for uri in uris:
            matcher.feed_line(parse_line(written(OK, key_of(uri, "d", "v") if with_key == "with keys" else None, uri)))
        assert matcher.counts.ok == units
        assert tracemalloc.get_traced_memory()[0] / units < 400
    finally:
        tracemalloc.stop()


def test_waiting_failures_are_small() -> None:
    units = 2000
    long = {
        "candidates": [{"content": {"parts": [{"text": '{"a": "b' + "c, c, " * 2000}]}, "finishReason": "MAX_TOKENS"}]
    }
    lines = [orjson.dumps({"custom_id": f"k-{number}", "status": "", "response": long}) for number in range(units)]
    tracemalloc.start()
    try:
        matcher = ShardMatcher(shard(*["a"] * units), READ, uris_of)
        before = tracemalloc.get_traced_memory()[0]
        for raw in lines:
            matcher.feed_line(parse_line(raw))
        # A model that repeats itself writes 12,000 characters into each.
        assert (tracemalloc.get_traced_memory()[0] - before) / units < 600
    finally:
        tracemalloc.stop()
    assert {item.answer.reason for item in matcher.finish() if isinstance(item, Matched)} == {"TRUNCATED"}
