"""The engine: one per process and run, unit batches, draining, retries and errors."""

from __future__ import annotations

import dataclasses
import queue
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import google.cloud.storage as storage
import pytest
from support.jobs import PHOTOS

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.records import Image, Status, Unit, UnitKind
from imagebeam.transforms.core.unit_batch import UnitBatch, pack
from imagebeam.transforms.engine.engine import Engine, Sink, close_engine, get_engine, live_engines
from imagebeam.transforms.engine.retry_policy import backoff_s, with_larger_limit
from imagebeam.transforms.engine.settings import CallSettings, EngineSettings
from imagebeam.transforms.engine.unit_caller import CallResult
from imagebeam.transforms.tasks.catalog import load_models_file, load_task
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.task import Generation


@pytest.fixture
def uri(cloud: LocalCloud) -> str:
    bucket = storage.Client().create_bucket(f"engine-{secrets.token_hex(4)}")
    bucket.blob("a.jpg").upload_from_string(PHOTOS[0].read_bytes(), content_type="image/jpeg")
    return f"gs://{bucket.name}/a.jpg"


@pytest.fixture
def settings(cloud: LocalCloud) -> Iterator[EngineSettings]:
    models = load_models_file()
    task = load_task("describe", models, Path.cwd())
    call_settings = CallSettings(
        project=cloud.project, location="global", task=task, profile=models.profile(task.model)
    )
    created = EngineSettings(run_id=f"engine-{secrets.token_hex(4)}", call_settings=call_settings, in_flight=4)
    yield created
    close_engine(created.run_id)


def batch_of(uri: str, size: int, name: str = "u") -> UnitBatch:
    names = [f"{name}{i}" for i in range(size)]
    return pack([Unit(name, UnitKind.OBSERVATION, "d", (Image(name, uri),)) for name in names])


def take(sink: Sink, number: int) -> list[CallResult]:
    return [sink.get(timeout=120)[1] for _ in range(number)]


def test_sink_receives_each_unit_of_its_batch_once(settings: EngineSettings, uri: str) -> None:
    engine = get_engine(settings)
    first: Sink = queue.SimpleQueue()
    second: Sink = queue.SimpleQueue()
    engine.submit(batch_of(uri, 6, "a"), first)
    engine.submit(batch_of(uri, 3, "b"), second)
    assert {result.outcome.unit.unit_id for result in take(first, 6)} == {f"a{i}" for i in range(6)}
    assert {result.outcome.status for result in take(second, 3)} == {Status.OK}
    with pytest.raises(queue.Empty):
        first.get(timeout=0.2)


def test_retried_bundle_attaches_to_running_batch(cloud: LocalCloud, settings: EngineSettings, uri: str) -> None:
    cloud.faults(vertex={"latency": {"median_s": 0.3, "sigma": 0.01}})
    engine, batch = get_engine(settings), batch_of(uri, 8)
    failed_bundle: Sink = queue.SimpleQueue()
    retried: Sink = queue.SimpleQueue()
    engine.submit(batch, failed_bundle)
    take(failed_bundle, 2)
    engine.submit(batch, retried)
    assert len({result.outcome.unit.unit_id for result in take(retried, 8)}) == 8
    assert cloud.counters()["vertex"]["calls"] == 8


def test_one_engine_per_run_and_process(settings: EngineSettings, cloud: LocalCloud) -> None:
    engines: list[Engine] = []
    threads = [threading.Thread(target=lambda: engines.append(get_engine(settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, engines))) == 1
    assert engines[0] in live_engines()
    close_engine(settings.run_id)
    assert engines[0] not in live_engines()


def test_calls_in_flight_never_exceed_the_window(cloud: LocalCloud, settings: EngineSettings, uri: str) -> None:
    cloud.faults(vertex={"latency": {"median_s": 0.1, "sigma": 0.01}})
    sink: Sink = queue.SimpleQueue()
    get_engine(settings).submit(batch_of(uri, 30), sink)
    take(sink, 30)
    assert cloud.counters()["vertex"]["max_in_flight"] <= 4


def test_draining_skips_units_that_were_not_sent(cloud: LocalCloud, settings: EngineSettings, uri: str) -> None:
    cloud.faults(vertex={"latency": {"median_s": 0.5, "sigma": 0.01}})
    engine = get_engine(settings)
    sink: Sink = queue.SimpleQueue()
    engine.submit(batch_of(uri, 20), sink)
    while not cloud.counters().get("vertex", {}).get("calls"):
        time.sleep(0.02)
    engine.drain("interrupted: test")
    results = take(sink, 20)
    statuses = [finished.outcome.status for finished in results]
    assert statuses.count(Status.OK) == cloud.counters()["vertex"]["calls"] > 0
    assert statuses.count(Status.SKIPPED) == 20 - statuses.count(Status.OK)
    assert engine.stop_reason == "interrupted: test"


def check_forever(engine: Engine) -> None:
    while True:
        engine.check()
        time.sleep(0.02)


def test_unreadable_unit_batch_raises_instead_of_blocking(settings: EngineSettings) -> None:
    engine = get_engine(settings)
    sink: Sink = queue.SimpleQueue()
    engine.submit(UnitBatch("broken", 3, b"no units"), sink)
    with pytest.raises(SystemicError, match="incorrect header"):
        check_forever(engine)
    with pytest.raises(SystemicError, match="incorrect header"):
        engine.submit(batch_of("gs://a/b", 1), sink)


def test_check_raises_when_the_loop_has_ended(settings: EngineSettings, cloud: LocalCloud) -> None:
    engine = get_engine(settings)
    engine._loop.call_soon_threadsafe(engine._loop.stop)
    engine._thread.join(timeout=120)
    with pytest.raises(SystemicError, match="the engine failed: RuntimeError: Event loop stopped"):
        engine.check()


def test_retries_truncated_answer_with_larger_limit(cloud: LocalCloud, settings: EngineSettings, uri: str) -> None:
    cloud.faults(vertex={"rules": [{"match": uri, "times": 1, "do": "finish", "reason": "MAX_TOKENS"}]})
    sink: Sink = queue.SimpleQueue()
    get_engine(settings).submit(batch_of(uri, 1), sink)
    (result,) = take(sink, 1)
    assert (result.outcome.status, result.calls, result.outcome.attempts) == (Status.OK, 2, 2)
    assert with_larger_limit({"generationConfig": {"maxOutputTokens": 100}, "a": 1}, maximum=8192) == {
        "generationConfig": {"maxOutputTokens": 200},
        "a": 1,
    }


@pytest.mark.parametrize("output_limit", [60, 200])
def test_second_attempt_has_room_for_the_thoughts(
    settings: EngineSettings, cloud: LocalCloud, uri: str, output_limit: int
) -> None:
    """The first limit holds not even the thoughts of a model that thinks by default."""
    models = load_models_file()
    generation = Generation(temperature=0.2, max_output_tokens=output_limit)
    task = dataclasses.replace(settings.call_settings.task, model="gemini-2.5-flash", generation=generation)
    calls = dataclasses.replace(
        settings.call_settings, task=task, profile=models.profile(task.model), location="us-central1"
    )
    sink: Sink = queue.SimpleQueue()
    thinking = dataclasses.replace(settings, call_settings=calls)
    get_engine(thinking).submit(batch_of(uri, 1), sink)
    (result,) = take(sink, 1)
    outcome = result.outcome
    assert (outcome.status, outcome.attempts) == (Status.OK, 2), outcome.answer
    assert outcome.usage.thought_tokens == output_limit + 500


def test_retries_broken_connection(cloud: LocalCloud, settings: EngineSettings, uri: str) -> None:
    cloud.faults(vertex={"rules": [{"match": uri, "times": 1, "do": "reset"}]})
    sink: Sink = queue.SimpleQueue()
    get_engine(settings).submit(batch_of(uri, 1), sink)
    (result,) = take(sink, 1)
    assert (result.outcome.status, result.outcome.attempts) == (Status.OK, 2)


def test_backoff_grows_has_jitter_and_respects_retry_after() -> None:
    for attempt in range(1, 8):
        waits = [backoff_s(attempt, None) for _ in range(200)]
        assert min(waits) >= 0
        assert max(waits) <= min(60, 2 ** (attempt - 1))
        assert len(set(waits)) > 100
    assert backoff_s(1, 30.0) == 30.0
    assert max(backoff_s(1, None, 10.0) for _ in range(200)) > 1


def test_engine_without_destination_returns_vectors(settings: EngineSettings, uri: str) -> None:
    task = embed_task("gemini-embedding-2", 5)
    profile = load_models_file().embedding(task.model)
    call_settings = dataclasses.replace(settings.call_settings, task=task, profile=profile)
    engine = get_engine(dataclasses.replace(settings, call_settings=call_settings))
    sink: Sink = queue.SimpleQueue()
    engine.submit(batch_of(uri, 2), sink)
    assert [len(result.outcome.answer.vector or ()) for result in take(sink, 2)] == [5, 5]
