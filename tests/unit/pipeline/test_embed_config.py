"""The settings of ``imagebeam embed``: flags override the config file, which overrides defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.settings_lines import embed_settings

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.execution import BatchSettings
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Setting
from imagebeam.pipeline.run.assemble import build_run_settings
from imagebeam.pipeline.run.embed_settings import EMBED, EmbedSettings
from imagebeam.pipeline.run.resolved_run import ResolvedRun, SourceInfo
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.sources import detect_profile, source_of
from imagebeam.transforms.tasks.embedding import embed_task
from imagebeam.transforms.tasks.task import ImageSettings

NEEDED = ("--source=photos.latest", "--results=answers", "--project=my-project", "--run_id=r")
MULTIMODAL = "--model=multimodalembedding@001"
SCHEMA = [{"name": name, "type": "STRING"} for name in ("observation_id", "gcs_uri")]
Settings = Callable[..., EmbedSettings]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    def make(*argv: str) -> EmbedSettings:
        return embed_settings([*NEEDED, *argv], cwd=tmp_path, environ={})[0]

    return make


def run_of(settings: EmbedSettings) -> RunSettings:
    table = TableName("my-project", "photos", "latest")
    source = source_of(detected=detect_profile("latest", SCHEMA, profile="auto", mapping={}), table=table)
    resolved = ResolvedRun(settings)
    resolved.source_info = SourceInfo(source, "US", "")
    return build_run_settings(resolved)


def test_needs_three_flags(settings: Settings) -> None:
    made = settings()
    assert (made.model, made.dimension, made.task) == ("gemini-embedding-2", 3072, "embed/gemini-embedding-2/3072")
    assert (made.image, made.vector_index, made.lane, made.location) == (ImageSettings(), False, "online", "global")


@pytest.mark.parametrize(
    ("argv", "changed"),
    [
        (("--dimension=768",), {"dimension": 768}),
        ((MULTIMODAL,), {"dimension": 1408}),
        ((MULTIMODAL, "--dimension=512"), {"dimension": 512}),
        (("--crop=bbox", "--padding=0.2"), {"image": ImageSettings(crop="bbox", padding=0.2)}),
        (("--max_side=512",), {"image": ImageSettings(max_side=512)}),
        (("--vector_index",), {"vector_index": True}),
    ],
)
def test_each_flag_sets_its_setting(settings: Settings, argv: tuple[str, ...], changed: dict[str, Any]) -> None:
    made = settings(*argv)
    assert {name: getattr(made, name) for name in changed} == changed
    assert made.embed_task().version == embed_task(str(made.model), made.dimension, made.image).version


@pytest.mark.parametrize(
    ("argv", "a_second"),
    [
        ((MULTIMODAL, "--location=us-central1"), 10),
        ((MULTIMODAL, "--location=europe-west4"), 2),
        ((MULTIMODAL, "--location=us-central1", "--direct_num_workers=2"), 5),
        ((MULTIMODAL, "--location=us-central1", "--max_rpm=1200"), 20),
        ((), None),
    ],
)
def test_divides_a_fixed_quota_among_workers_unless_overridden(
    settings: Settings, argv: tuple[str, ...], a_second: float | None
) -> None:
    assert run_of(settings(*argv)).engine.max_per_s == a_second


def test_writes_the_table_of_its_model_and_length(settings: Settings) -> None:
    run = run_of(settings("--dimension=768"))
    assert run.engine.destination is not None
    assert run.engine.destination.vectors == run.answers
    assert run.answers.dotted == "my-project.answers.embeddings_gemini_embedding_2_768"
    assert run.labels() == {"imagebeam_run": "r", "imagebeam_task": "embed-gemini-embedding-2-768"}
    assert run.engine.destination.lease is not None
    assert run.engine.destination.lease.table == "_lease_embed_gemini-embedding-2_768"


def test_ignores_settings_of_classify_in_the_config_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text(
        "task: describe\nmodel: gemini-3.5-flash\nunit: asset\nlane: batch\nbatch_rounds: 2\nlimit: 7\n"
    )
    made = settings()
    assert (made.model, made.lane, made.limit) == ("gemini-embedding-2", "online", 7)
    assert "batch_rounds" not in made.given


def test_requires_a_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no source"):
        embed_settings(["--results=answers", "--project=my-project"], cwd=tmp_path, environ={})


def test_shares_the_flags_of_classify() -> None:
    own = {"model", "unit", "lane", "transport", "max_rpm"}
    for name in set(flags_of(BatchSettings)) - {"batch_lines", "batch_fallback"}:
        assert dataclasses.replace(EMBED[name], in_file=CLASSIFY[name].in_file) == CLASSIFY[name], name
    shared = EMBED.keys() & CLASSIFY.keys() - own - flags_of(BatchSettings).keys()
    assert {"source", "reprocess", "limit", "results", "max_cost_usd", "runner"} <= shared
    assert all(CLASSIFY[name] == EMBED[name] for name in shared)
    assert not EMBED.keys() & {"task", "max_images"}


@pytest.mark.parametrize("flag", EMBED.values(), ids=lambda flag: flag.name)
def test_examples_of_flags_are_valid(flag: Setting) -> None:
    assert flag_values.read(flag, flag.example, where=f"--{flag.name}") is not None
