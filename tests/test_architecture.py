"""Imports run one way: pipeline → PTransforms → clients → pure modules; emulators stand apart.

Every module stands in one of the lists below. A new module fails the first test until somebody has decided
where it belongs.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "transforms", "emulators")

#: No Beam and no Google client, at import or later.
PURE = """
    answer_schema answers batch_lines batch_matching batch_results batch_states books calls checked_yaml due due_sql
    embedding_calls embedding_query embedding_setup_sql embedding_sql embeddings errors failures filters groups
    identifiers images models_file notes pacing pricing queries recorded_sql records requests search_sql sources tables
    task views worst_case
    forecast planning retrying
    embedding_lines
"""
#: Talk to services, one client per process; no Beam.
CLIENTS = """
    asking batch_jobs batch_shards budget embedding_client engine engine_settings lease loading objects parts
    recorder run vertex warehouse
    analytics_hub bigquery_errors credentials
"""
#: Wire the others into a pipeline.
PTRANSFORMS = "build_batch_requests call_model collect_batch finish_run pack_units read_units start_run"
#: Of pipeline: imported before a command is known to need Beam, so they import Beam inside functions only.
LIGHT = """
    __main__ arguments beam_flags cli config config_file contact_sheet dataflow_options embed_config embed_flags
    flag_values flags help_text init_command report said search_config search_flags task_files tasks_command
    template_command template_launch template_main template_metadata
    plan_config
    from_storage schedule schedule_command schedule_flags subscribe_config subscribe_flags template_request
    findings grants refusals
"""
#: Of pipeline: the job itself.
JOB = """
    batch_books batch_checks batch_command batch_steps batch_store batch_supervisor classify dataflow_staging embed
    embed_passes embed_setup embed_sql estimate exit_code launch model_check preflight progress run_settings search
    sql_jobs
    batch_submit
    look plan_command plan_text probe
    subscribe
    google_rest preflight_checks preflight_command preflight_context preflight_data preflight_model
"""

LAYERS = {
    **{f"imagebeam.transforms.{name}": "pure" for name in ["__init__", *PURE.split()]},
    **{f"imagebeam.transforms.{name}": "client" for name in CLIENTS.split()},
    **{f"imagebeam.transforms.{name}": "ptransform" for name in PTRANSFORMS.split()},
    **{f"imagebeam.pipeline.{name}": "light" for name in ["__init__", *LIGHT.split()]},
    **{f"imagebeam.pipeline.{name}": "job" for name in JOB.split()},
}

#: What a layer may import of ours.
MAY_IMPORT = {
    "pure": {"pure"},
    "client": {"pure", "client"},
    "ptransform": {"pure", "client", "ptransform"},
    "light": {"pure", "light", "job"},
    "job": {"pure", "client", "ptransform", "light", "job"},
    "emulator": {"pure", "emulator"},
}
HEAVY = ("apache_beam", "google")


def layer(module: str) -> str | None:
    if module.startswith("imagebeam.emulators"):
        return "emulator"
    return LAYERS.get(module) or LAYERS.get(f"{module}.__init__")


def modules() -> dict[str, Path]:
    return {
        ".".join(("imagebeam", *path.relative_to(ROOT).with_suffix("").parts)): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(tree: ast.AST, *, deferred: bool = True) -> Iterator[str]:
    """Names that a module imports; without ``deferred`` only those it imports as soon as it is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if (node.module or "").startswith("imagebeam"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, deferred=deferred)


def violations(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    mine = layer(module)
    assert mine is not None, module
    found = []
    for name in imports(tree):
        theirs = layer(name)
        if theirs is not None and theirs not in MAY_IMPORT[mine] and name != f"imagebeam.{module.split('.')[1]}":
            found.append(f"{module} ({mine}) imports {name} ({theirs})")
        if name.split(".")[0] in PACKAGES or name.startswith("."):
            found.append(f"{module} imports {name}: write imagebeam.…")
    for name in imports(tree, deferred=mine != "light"):
        beam_in_client = mine == "client" and name.startswith("apache_beam")
        if beam_in_client or (mine in {"pure", "light"} and name.split(".")[0] in HEAVY):
            found.append(f"{module} ({mine}) imports {name}")
    return found


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_place(module: str) -> None:
    assert layer(module), f"{module}: add it to one of the lists in {Path(__file__).name}"


def test_the_lists_name_no_module_that_is_gone() -> None:
    assert set(LAYERS) <= set(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_run_one_way(module: str) -> None:
    assert violations(module, modules()[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("imagebeam.transforms.core.records", "import apache_beam as beam"),
        ("imagebeam.transforms.core.records", "def f():\n    from google.cloud import storage"),
        ("imagebeam.transforms.core.records", "from imagebeam.transforms.engine.engine import Engine"),
        ("imagebeam.transforms.core.records", "from imagebeam.transforms import engine"),
        ("imagebeam.transforms.engine.engine", "import apache_beam"),
        ("imagebeam.transforms.engine.engine", "from imagebeam.transforms import read_units"),
        ("imagebeam.transforms.read_units", "from imagebeam.pipeline.run.settings import ClassifySettings"),
        ("imagebeam.pipeline.classify", "from imagebeam.emulators.cloud import LocalCloud"),
        ("imagebeam.pipeline.flags.classify", "if True:\n    import apache_beam"),
        ("imagebeam.pipeline.cli.main", "def f():\n    from imagebeam.emulators import cli"),
        ("imagebeam.emulators.server", "from imagebeam.transforms.clients.bigquery import Warehouse"),
        ("imagebeam.emulators.server", "from imagebeam.pipeline import flags"),
        ("imagebeam.pipeline.cli.main", "from transforms.errors import UserError"),
        ("imagebeam.pipeline.cli.main", "from . import flags"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert violations(module, source)


def test_a_light_module_may_import_beam_inside_a_function() -> None:
    assert violations("imagebeam.pipeline.flags.classify", "def f():\n    import apache_beam") == []


def test_no_source_file_imports_a_package_without_its_prefix() -> None:
    # transforms.x and imagebeam.transforms.x would be two modules with different classes.
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for directory in (*PACKAGES, "tests", "templates", "examples", "benchmarks")
        for path in sorted((ROOT / directory).rglob("*.py"))
        for name in imports(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] in PACKAGES
    ]
    assert found == []


def test_pure_and_light_modules_load_neither_beam_nor_a_google_client() -> None:
    names = sorted(name.removesuffix(".__init__") for name, place in LAYERS.items() if place in {"pure", "light"})
    program = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith(('apache_beam', 'google.cloud.', 'google.genai'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "[]\n", done.stderr
