"""Every command in the README is listed here with its proof, and those that can run here are run.

A command that is new in the README fails the first test until it is in :data:`PROOFS`.
"""

import ast
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import NOT_UNDER_MAKE, commands
from support.paths import ROOT

from imagebeam.pipeline.cli import main as cli

README = (ROOT / "README.md").read_text(encoding="utf-8")

#: The command is run by a test below, in the README's order, in one empty directory.
RUN = "run"
#: The command talks to Google Cloud, or installs something.
ELSEWHERE = "elsewhere"

#: Command → RUN, ELSEWHERE, or the test that proves it, as file::function.
PROOFS = {
    "make demo": "tests/integration/commands/test_demo.py::test_demo_runs_three_times_and_keeps_answers",
    "source .venv/bin/activate": ELSEWHERE,
    "imagebeam local sql 'SELECT sharpness, COUNT(*) AS images FROM answers.image_quality GROUP BY 1' --dir .local": (
        "tests/integration/commands/test_demo.py::test_demo_runs_three_times_and_keeps_answers"
    ),
    "imagebeam local sql 'SELECT unit_id, status, reason FROM answers.dead_letters' --dir .local": (
        "tests/integration/commands/test_demo.py::test_demo_runs_three_times_and_keeps_answers"
    ),
    "imagebeam classify --task=utility_pole --lane=batch --work_dir=gs://my-bucket/imagebeam": (
        "tests/integration/batch/test_batch_lane.py::test_records_the_same_rows_as_the_online_lane"
    ),
    "imagebeam embed --dimension=768 --limit=100": (
        "tests/integration/embed/test_embed.py::test_embeds_every_image_once"
    ),
    "imagebeam embed --model=multimodalembedding@001 --location=us-central1 --dimension=512 --vector_index": (
        "tests/integration/embed/test_embed.py::test_creates_the_vector_index_once_after_the_run"
    ),
    "imagebeam embed --dimension=768 --lane=batch --work_dir=gs://my-bucket/imagebeam": (
        "tests/integration/embed/test_embed_batch.py::test_batch_and_online_lanes_give_the_same_vectors_and_counts"
    ),
    "imagebeam embed --lane=sql --dimension=768 --dry_run": (
        "tests/integration/embed/test_embed_sql.py::test_dry_run_prints_every_statement"
    ),
    "imagebeam embed --lane=sql --connection=us.imagery --create_connection --object_uris='gs://my-bucket/obs/*'": (
        "tests/integration/embed/test_embed_sql.py::test_creates_the_connection_and_prints_its_grants"
    ),
    "imagebeam search --text='a dark street' --model=gemini-embedding-2 --dimension=768 --html=found.html": (
        "tests/integration/embed/test_search.py::test_contact_sheet_has_thumbnails_on_request_and_loads_nothing"
    ),
    "imagebeam search --image=pole.jpg --where=\"asset_type = 'ASSET_CLASS_UTILITY_POLE'\" --top_k=50": (
        "tests/integration/embed/test_search.py::test_finds_the_image_of_a_local_picture"
    ),
    "imagebeam search --like=o1:0123:00250082 --out_table=image_answers.like_it": (
        "tests/integration/embed/test_search.py::test_classifies_a_saved_search_result"
    ),
    "imagebeam export --task=utility_pole --output=poles.parquet": (
        "tests/integration/commands/test_export.py::test_parquet_has_the_types_of_bigquery"
    ),
    "imagebeam batch status --work_dir=gs://my-bucket/imagebeam": (
        "tests/integration/batch/test_batch_lane.py::test_status_and_collect_need_only_the_work_directory"
    ),
    "imagebeam batch collect --work_dir=gs://my-bucket/imagebeam": (
        "tests/integration/batch/test_batch_lane.py::test_status_and_collect_need_only_the_work_directory"
    ),
    "make test": "tests/repo/test_docs.py::test_make_runs_what_it_says",
    "gcloud auth application-default login": ELSEWHERE,
    "imagebeam subscribe --customer_id=1234-5678 --project=my-project --dataset=imagery_insights___us": (
        "tests/integration/commands/test_subscribe.py::test_links_a_dataset_once_and_runs_on_it"
    ),
    "imagebeam init --project=my-project --results=image_answers "
    "--source=my-project.imagery_insights___us.cropped_observations_latest": RUN,
    "imagebeam tasks list": RUN,
    "imagebeam tasks show utility_pole": RUN,
    "imagebeam plan --task=utility_pole": (
        "tests/integration/commands/test_plan.py::test_a_plan_of_the_demo_dataset_matches_the_run"
    ),
    "imagebeam preflight --task=utility_pole": (
        "tests/integration/commands/test_preflight.py::test_passes_a_good_setup_and_leaves_nothing_behind"
    ),
    "imagebeam classify --task=utility_pole --limit=100": ELSEWHERE,
    "imagebeam classify --task=utility_pole --asset_types=ASSET_CLASS_UTILITY_POLE --near=46.948,7.447,500": ELSEWHERE,
    "imagebeam template build --image=europe-west6-docker.pkg.dev/my-project/images/imagebeam:0.1.0 "
    "--template=gs://my-bucket/imagebeam/classify.json": (
        "tests/integration/dataflow/test_template_command.py::test_readme_commands_run_gcloud"
    ),
    "imagebeam template launch --template=gs://my-bucket/imagebeam/classify.json --region=europe-west6 "
    "--task=utility_pole --work_dir=gs://my-bucket/imagebeam --max_cost_usd=25": (
        "tests/integration/dataflow/test_template_command.py::test_readme_commands_run_gcloud"
    ),
    "imagebeam template build embed --image=europe-west6-docker.pkg.dev/my-project/images/imagebeam:0.1.0 "
    "--template=gs://my-bucket/imagebeam/embed.json --reuse_image": (
        "tests/integration/dataflow/test_template_command.py::test_readme_commands_run_gcloud"
    ),
    "imagebeam template launch embed --template=gs://my-bucket/imagebeam/embed.json --region=europe-west6 "
    "--dimension=768 --work_dir=gs://my-bucket/imagebeam --max_cost_usd=25": (
        "tests/integration/dataflow/test_template_command.py::test_readme_commands_run_gcloud"
    ),
    "imagebeam tasks new street_furniture": RUN,
    "imagebeam tasks check tasks/street_furniture.yaml": RUN,
}


def test_commands_are_found_in_both_kinds_of_blocks() -> None:
    text = "```bash\na b \\\n  c\n# no\nd  # why\n```\n```console\n$ e\noutput\n$ f\n```\n```python\ng\n```\n"
    assert commands(text) == ["a b c", "d", "e", "f"]


def test_every_command_of_the_readme_has_a_proof_and_every_proof_a_command() -> None:
    assert set(commands(README)) == set(PROOFS)


@pytest.mark.parametrize("proof", sorted(set(PROOFS.values()) - {RUN, ELSEWHERE}))
def test_the_tests_that_prove_commands_exist(proof: str) -> None:
    file, _, name = proof.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_commands_that_can_run_here_run(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = [command for command in commands(README) if PROOFS[command] == RUN]
    assert ran
    for command in ran:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("demo", ".venv/bin/imagebeam local demo"),
        ("test-fast", '.venv/bin/python -m pytest -m "not long" tests/unit tests/repo'),
        ("test", '.venv/bin/python -m pytest -m "not long" -n auto --maxprocesses 4 --dist loadfile'),
        ("test-long", ".venv/bin/python tests/support/long_run.py"),
        ("bench", ".venv/bin/python -m benchmarks.run --write docs/benchmarks.md"),
    ],
)
def test_make_runs_what_it_says(target: str, last: str) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", target],
        cwd=ROOT,
        env=NOT_UNDER_MAKE,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == last
    # On a bare machine it installs first, with the locked versions.
    assert any("-c requirements.lock -e '.[local,dev]'" in line for line in lines)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "imagebeam needs Python 3.11 or newer, and ./python is not there"),
        ('echo "Python 2.7.18"; [ "$1" = -V ]', "imagebeam needs Python 3.11 or newer; ./python is Python 2.7.18"),
        ('case "$2" in *venv*) exit 1;; esac', "this Python has no venv module: install it"),
    ],
)
def test_make_says_in_one_line_what_a_bare_machine_lacks(tmp_path: Path, python: str | None, said: str) -> None:
    for name in ("Makefile", "setup.py", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    if python is not None:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
        (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["make", "PYTHON=./python", "demo"],
        cwd=tmp_path,
        env=NOT_UNDER_MAKE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in commands(README)
    assert script.rstrip().endswith("exec make test")


def test_every_command_of_the_program_is_in_the_readme() -> None:
    for name in cli.COMMANDS:
        assert f"imagebeam {name}" in README
