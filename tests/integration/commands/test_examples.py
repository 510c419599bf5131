"""The example: transforms in another pipeline."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from support.jobs import make_job
from support.paths import ROOT

from imagebeam.emulators.cloud import LocalCloud

EXAMPLE = ROOT / "examples" / "describe_folder.py"


def test_describes_every_image_of_a_folder(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, [{}, {}, {"data": b"no image"}])
    bucket = str(job.rows[0]["gcs_uri"]).partition("/snapshot")[0]
    answers = tmp_path / "answers.jsonl"
    main = runpy.run_path(str(EXAMPLE))["main"]
    main([f"--images={bucket}/snapshot/**", f"--answers={answers}", "--task=describe"])
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert {line["uri"]: line["status"] for line in lines} == {
        job.rows[0]["gcs_uri"]: "OK",
        job.rows[1]["gcs_uri"]: "OK",
        job.rows[2]["gcs_uri"]: "IMAGE_ERROR",
    }
    assert all(line["answer"]["text"] for line in lines if line["status"] == "OK")
