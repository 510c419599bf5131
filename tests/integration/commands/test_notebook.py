"""examples/first_run.ipynb: executed on the local cloud, and committed with its output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from examples.run_notebook import NOTEBOOK, execute, html_outputs
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset

MAX_BYTES = 400_000


def text_of(notebook: Any) -> str:
    """Return all text that the cells print or show, without images."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    parts = [output.get("text", "") + str(dict(output.get("data", {}))) for output in outputs]
    return re.sub(r"data:image/jpeg;base64,[\w+/=]*", "IMAGE", "\n".join(parts))


def check(notebook: Any) -> None:
    """Check what the cells show: both runs with ten images, no second payment, a data frame and a contact sheet."""
    described, classified, found = (page for page in html_outputs(notebook) if "<img" in page)
    assert described.count("<img") == classified.count("<img") == 10
    assert "<dt>text</dt>" in described
    assert "<dt>quality_score</dt>" in classified
    assert found.count("<img") == 3
    text = text_of(notebook)
    assert "(0, 10, Decimal('0'))" in text
    assert "linked to projects/" in text
    assert "for 10 images, described and classified" in text
    assert "Traceback" not in text
    assert "Warning" not in text


@pytest.mark.long
@pytest.mark.timeout(600)
def test_notebook_runs_on_the_local_cloud(cloud: LocalCloud, tmp_path: Path) -> None:
    build_dataset(cloud.url, cloud.project)
    check(execute(dict(cloud.environment), tmp_path))


def test_notebook_is_committed_with_its_output() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check(notebook)
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    assert not re.search(r"/(home|root|tmp|Users|work)/|site-packages", text_of(notebook))
    assert all(
        cell.execution_count == number
        for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1)
    )
