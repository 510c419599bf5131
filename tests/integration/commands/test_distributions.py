"""Packaging: wheel, sdist and the package for Dataflow have one import name and all run-time files."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("pipeline", "transforms", "emulators")

#: A pipeline that needs the package on both sides: its own code, package data, and a pickled function.
PROGRAM = """
import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to
from importlib import resources
from imagebeam.transforms.tasks.catalog import list_tasks, load_models_file, load_task
from imagebeam.transforms.core import records
from pathlib import Path
import imagebeam.pipeline, imagebeam.transforms, imagebeam.emulators

def status(value):
    return records.Status(value).value

models = load_models_file()
assert [load_task(file.name, models, Path()) for file in list_tasks(Path())]
assert (resources.files("imagebeam.emulators.sample_data") / "photos" / "LICENSES.md").is_file()
for package in (imagebeam.pipeline, imagebeam.transforms, imagebeam.emulators):
    assert (Path(package.__file__).parent / "py.typed").is_file()
with beam.Pipeline(runner="FnApiRunner") as pipeline:
    assert_that(pipeline | beam.Create(["OK", "SKIPPED"]) | beam.Map(status), equal_to(["OK", "SKIPPED"]))
print(records.__file__)
"""


def run(*command: str, cwd: Path, **environ: str) -> str:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, because a build leaves directories that the next wheel would include."""
    target = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture(scope="module")
def built(checkout: Path) -> Path:
    """Directory with the sdist, and the wheel that was built from it."""
    out = checkout / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), cwd=checkout)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    return next(built.glob("*.tar.gz"))


def test_the_wheel_has_one_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"imagebeam"}
    assert {name.split("/")[1] for name in names if name.startswith("imagebeam/")} == set(PACKAGES)


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"imagebeam/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert expected - names == set()
    assert any(name.endswith("LICENSE") for name in names)


def test_the_sdist_has_the_repository_layout(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", *PACKAGES} <= names
    assert {
        "transforms/tasks/data/models.yaml",
        "transforms/py.typed",
        "emulators/sample_data/photos/LICENSES.md",
    } <= names


@pytest.fixture(scope="module")
def installed(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package, installed from the sdist."""
    # The dependencies are lent by this environment through a path file; that doesn't lend its editable install.
    directory = tmp_path_factory.mktemp("installed")
    home = directory / "venv"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(home)
    python = str(home / "bin" / "python")
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"),
        *("--no-build-isolation", "--disable-pip-version-check", str(_as_wheel(sdist, directory))),
        cwd=directory,
    )
    lent = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (_site(home) / "lent.pth").write_text("\n".join(lent) + "\n")
    return home


def _site(home: Path) -> Path:
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(str(home / "bin" / "python"), "-c", program, cwd=home).strip())


@pytest.mark.long
def test_the_sdist_runs_a_pipeline_when_installed_alone(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    printed = run(str(installed / "bin" / "python"), "program.py", cwd=tmp_path, PYTHONPATH="")
    assert Path(printed.strip()).is_relative_to(_site(installed))
    version = run(str(installed / "bin" / "imagebeam"), "--version", cwd=tmp_path, PYTHONPATH="")
    assert version.startswith("imagebeam ")


#: A user's program.
USER = """
from decimal import Decimal
from pathlib import Path

import apache_beam as beam

from imagebeam.pipeline import RunResult, __version__, classify, embed, plan, prepare, search
from imagebeam.transforms import CallModel, EngineSettings, Image, Outcome, PackUnits, Unit, UnitKind, load_task


def classify_some(images: list[str]) -> Decimal | None:
    result: RunResult = classify(
        task="describe", source="data.images", results="answers", limit=10, max_cost_usd=Decimal(2), lane="flex",
        near=(46.9, 7.4, 500), asset_types=images, work_dir=Path("runs"), region="us-central1", model=None,
    )
    print(__version__, result.counts.ok, plan("embed", dimension=768).lanes[0].lane)
    print(search(text="a dark street", results="answers").hits, embed(results="answers").exit_code)
    print(prepare(task="describe").run_id)
    return result.cost_usd


def line(outcome: Outcome) -> str:
    return f"{outcome.unit.unit_id} {outcome.status} {outcome.cost_usd}"


unit = Unit("a", UnitKind.OBSERVATION, "0", (Image("a", "gs://b/a.jpg"),))
settings = EngineSettings.for_task(load_task("describe"), project="my-project")
with beam.Pipeline() as pipeline:
    units = pipeline | beam.Create(["gs://b/a.jpg"]) | beam.Map(Unit.from_uri)
    _ = units | PackUnits() | CallModel(settings, emit="outcomes") | beam.Map(line)
"""
#: Mistakes that a type checker must find, each with a part of its message.
MISTAKES = {
    'classify(tsk="describe")': 'Unexpected keyword argument "tsk" for "classify"',
    'classify(limit="ten")': 'Argument "limit" to "classify" has incompatible type "str"',
    'classify(lane="fast")': 'Argument "lane" to "classify" has incompatible type',
    "search(top_k=[1])": 'Argument "top_k" to "search" has incompatible type',
    "CallModel(settings, emit='everything')": 'Argument "emit" to "CallModel" has incompatible type',
    "from imagebeam.transforms import Typo": 'Module "imagebeam.transforms" has no attribute "Typo"',
    "from imagebeam.pipeline import typo": 'Module "imagebeam.pipeline" has no attribute "typo"',
    "classify().counts.okay": '"OutcomeCounts" has no attribute "okay"',
}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_mypy_checks_a_users_program_against_the_installed_package(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(USER)
    (tmp_path / "mistakes.py").write_text(USER + "\n".join(MISTAKES) + "\n")
    mypy = (str(installed / "bin" / "python"), "-m", "mypy")
    done = subprocess.run(
        # Beam's own transforms, such as Create and Map, are untyped.
        [*mypy, "--strict", "--allow-untyped-calls", "program.py", "mistakes.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "MYPYPATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line for line in errors if not line.startswith("mistakes.py")] == [], done.stdout + done.stderr
    for message, line in zip(MISTAKES.values(), errors, strict=True):
        assert message in line


def test_the_dataflow_image_installs_without_the_emulators(checkout: Path, tmp_path: Path) -> None:
    """The package builds from what templates/Dockerfile copies, and ``imagebeam local`` explains that it is missing."""
    context, target = tmp_path / "context", tmp_path / "installed"
    dockerfile = (ROOT / "templates" / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE):
        for name in line.split()[:-1]:
            place = context / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(checkout / name, place)
            else:
                shutil.copy(ROOT / name, place)
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--disable-pip-version-check", "--target", str(target), str(context)),
        cwd=tmp_path,
    )
    assert {path.name for path in (target / "imagebeam").iterdir()} == {"pipeline", "transforms"}
    (entry_points,) = target.glob("imagebeam-*.dist-info/entry_points.txt")
    assert "imagebeam.commands" not in entry_points.read_text(encoding="utf-8")
    program = (
        "import sys; from imagebeam.pipeline.cli.main import main\n"
        "main(['--help']); code = main(['local', 'up']); print(sys.modules['imagebeam.pipeline'].__file__); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert str(target) in done.stdout, "the installed package is the one that runs"
    assert "imagebeam local is not part of this installation" in done.stderr
    assert "pip install" in done.stderr


def _as_wheel(sdist: Path, directory: Path) -> Path:
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--disable-pip-version-check", "--wheel-dir", str(directory), str(sdist)),
        cwd=directory,
    )
    return next(directory.glob("*.whl"))


@pytest.mark.long
def test_beam_stages_the_project_for_its_workers(checkout: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "from apache_beam.runners.portability.stager import Stager\n"
        "options = PipelineOptions(['--setup_file=./setup.py', '--sdk_location=container'])\n"
        "resources = Stager.create_job_resources(options, sys.argv[1])\n"
        "staged = {name: path for path, name, _ in Stager.extract_staging_tuple_iter(resources)}\n"
        "print(staged['workflow.tar.gz'])\n"
    )
    staged = run(sys.executable, "-c", program, str(tmp_path), cwd=checkout).strip()
    with tarfile.open(staged) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "README.md", "transforms/core/records.py", "transforms/tasks/data/models.yaml"} <= names
