"""Find and load tasks and models: shipped ones from package data, the user's from ``tasks/``, any path or a prompt."""

import dataclasses
import functools
import json
from importlib import resources
from pathlib import Path

import yaml

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import Section, load_mapping, suggestion
from imagebeam.transforms.tasks.answer_schema import read_schema
from imagebeam.transforms.tasks.model_profiles import Models
from imagebeam.transforms.tasks.models_file import load_models
from imagebeam.transforms.tasks.task import Task, parse_task

#: Directory of the user's tasks, below the working directory.
TASKS_DIR = "tasks"


@dataclasses.dataclass(frozen=True, slots=True)
class TaskFile:
    """The YAML text of a task and its origin.

    Attributes:
        name: File name without extension.
        source: Name in messages: ``tasks/poles.yaml``, or ``image_quality (shipped)``.
        text: The YAML.
        shipped: Whether the task is part of imagebeam.
    """

    name: str
    source: str
    text: str
    shipped: bool


def load_task(
    name_or_path: str, models: Models | None = None, cwd: Path | None = None, *, model: str | None = None
) -> Task:
    """Load a task for the model that it runs with.

    Args:
        name_or_path: ``image_quality``, or a path: something with a ``/`` or ending in ``.yaml``.
        models: Known models, and the default one; by default the shipped ones.
        cwd: Directory that relative paths start from; its ``tasks/`` is searched before the shipped tasks. By default
            the working directory.
        model: Model to use instead of the one in the file.

    Raises:
        UserError: The task does not exist, or its file is invalid.
    """
    return build_task(find_task(name_or_path, cwd or Path.cwd()), models or load_models_file(), model=model)


def build_task(file: TaskFile, models: Models, *, model: str | None = None) -> Task:
    """Parse a task file for the model that it runs with, without the settings that this model ignores.

    Args:
        file: The file.
        models: Known models, and the default one.
        model: Model to use instead of the one in the file.

    Raises:
        UserError: The file is invalid.
    """
    task = parse_task(file.text, source=file.source, default_model=models.default)
    if model:
        task = dataclasses.replace(task, model=model)
    return models.profile(task.model).drop_ignored_settings(task)


def read_model(file: TaskFile, models: Models) -> str:
    """Return the name of a task's model as it is written in its file, or that of the default one.

    Raises:
        UserError: The file is invalid.
    """
    section = load_mapping(file.text, file.source)
    return section.text("model", models.default).strip() or models.default


def find_task(name_or_path: str, cwd: Path) -> TaskFile:
    """Find the file of a task; a user's task replaces a shipped one of the same name.

    Raises:
        UserError: The task does not exist, or its file cannot be read.
    """
    if _is_path(name_or_path):
        return _read(cwd / name_or_path, name_or_path)
    files = {file.name: file for file in list_tasks(cwd)}
    if name_or_path not in files:
        hint = suggestion(name_or_path, files) or f"; known tasks are {', '.join(sorted(files))}"
        raise UserError(f"task {name_or_path} does not exist, neither shipped nor in {TASKS_DIR}/{hint}")
    return files[name_or_path]


def prompt_task(name: str, prompt: str, schema: Path | None, cwd: Path) -> TaskFile:
    """Build the file of a task that consists of a prompt, with text answers or an answer schema.

    Args:
        name: Name of the task.
        prompt: The prompt; may have the fields that a prompt in a file may have.
        schema: JSON or YAML file with the answer schema; None for text answers.
        cwd: Directory that relative paths start from, and whose ``tasks/`` must not have a task of this name.

    Raises:
        UserError: There is a task of this name, or the schema cannot be read or is invalid.
    """
    if _is_path(name):
        raise UserError(f"--prompt needs the name of a task, such as --task=contents, not the file --task={name}")
    if same := next((file for file in list_tasks(cwd) if file.name == name), None):
        raise UserError(
            f"--prompt and task {same.source} are both named {name}: use another --task, or leave --prompt out"
        )
    document: dict[str, object] = {"name": name, "prompt": prompt}
    if schema is not None:
        section = _load_schema(_read(cwd / schema, str(schema)))
        read_schema(section)  # here, messages name its file
        document["schema"] = dict(section.content)
    return TaskFile(name, f"--task={name}", yaml.safe_dump(document, sort_keys=False), shipped=False)


def _load_schema(file: TaskFile) -> Section:
    try:  # YAML does not accept the tabs that JSON may have
        document = json.loads(file.text)
    except json.JSONDecodeError:
        document = None
    return Section(document, file.source) if isinstance(document, dict) else load_mapping(file.text, file.source)


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def list_tasks(cwd: Path) -> list[TaskFile]:
    """Return the shipped tasks and those in ``tasks/``, sorted by name.

    Raises:
        UserError: A file in ``tasks/`` cannot be read.
    """
    own = [
        _read(path, f"{TASKS_DIR}/{path.name}")
        for path in sorted((cwd / TASKS_DIR).glob("*.y*ml"))
        if path.suffix in {".yaml", ".yml"}
    ]
    files = {file.name: file for file in (*_shipped(), *own)}
    return [files[name] for name in sorted(files)]


def load_models_file(path: Path | None = None) -> Models:
    """Load the shipped models and prices.

    Args:
        path: A file that adds to them and overrides them; None for none.

    Raises:
        UserError: The file does not exist or is invalid.
    """
    if path is None:
        return _shipped_models()
    return load_models(_read(path, str(path)).text, str(path), _shipped_models_text())


@functools.cache
def _shipped_models() -> Models:
    return load_models(*_shipped_models_text())


def _shipped_models_text() -> tuple[str, str]:
    text = resources.files("imagebeam.transforms.tasks").joinpath("data/models.yaml").read_text(encoding="utf-8")
    return text, "models.yaml (shipped)"


@functools.cache
def _shipped() -> tuple[TaskFile, ...]:
    directory = resources.files("imagebeam.transforms.tasks").joinpath("data/tasks")
    return tuple(
        TaskFile(
            file.name.removesuffix(".yaml"),
            f"{file.name.removesuffix('.yaml')} (shipped)",
            file.read_text(encoding="utf-8"),
            shipped=True,
        )
        for file in directory.iterdir()
        if file.name.endswith(".yaml")
    )


def _read(path: Path, source: str) -> TaskFile:
    try:
        return TaskFile(path.stem, source, path.read_text(encoding="utf-8"), shipped=False)
    except FileNotFoundError:
        raise UserError(f"file {source} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {source}: {error}") from None
