"""Settings of command lines, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.command import FlagCommand
from imagebeam.pipeline.run.embed_settings import EMBED, EmbedSettings, load_embed
from imagebeam.pipeline.run.settings import ClassifySettings, load_classify
from imagebeam.pipeline.similarity.settings import SEARCH, SearchSettings, load_search
from imagebeam.pipeline.subscribe.settings import SUBSCRIBE, SubscribeSettings, load_subscribe


def classify_settings(
    argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]
) -> tuple[ClassifySettings, list[str]]:
    return load_classify(FlagCommand("imagebeam classify", CLASSIFY, beam=True).parse(argv), cwd=cwd, environ=environ)


def embed_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> tuple[EmbedSettings, list[str]]:
    return load_embed(FlagCommand("imagebeam embed", EMBED, beam=True).parse(argv), cwd=cwd, environ=environ)


def subscribe_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> SubscribeSettings:
    return load_subscribe(FlagCommand("imagebeam subscribe", SUBSCRIBE).parse(argv), cwd=cwd, environ=environ)


def search_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> SearchSettings:
    return load_search(FlagCommand("imagebeam search", SEARCH).parse(argv), cwd=cwd, environ=environ)
