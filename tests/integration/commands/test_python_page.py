"""The examples of docs/python.md, run in order on the sample dataset."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.paths import ROOT

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_examples_of_the_page_run(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_dataset(cloud.url, cloud.project, units=12, seed=0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "answers for 0.00" in printed
    assert "quality_score" in printed
    assert "OK {'text':" in printed
    (summary,) = [
        json.loads(path.read_text())
        for path in tmp_path.glob(".imagebeam/runs/*/summary.json")
        if json.loads(path.read_text())["task"] == "describe"
    ]
    assert summary["state"] == "DONE"
    assert summary["source"]["units_in"] == 10
