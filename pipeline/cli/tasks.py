"""``imagebeam tasks list|show|new|check``: what can be asked, and what it costs per image."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.flags import parser as flag_parser
from imagebeam.pipeline.flags.classify import FORCE, JSON, MODEL, MODELS_FILE, Flag, by_name
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.model_profiles import Models, cost_usd, estimate_usage
from imagebeam.transforms.tasks.task import Task, parse_task

_LANES: Final = (Lane.ONLINE, Lane.FLEX)
_COMMON: Final[tuple[Flag, ...]] = (MODEL, MODELS_FILE, JSON)


def main(argv: list[str], *, cwd: Path) -> int:
    """Runs one of the four.

    Args:
        argv: Arguments after ``tasks``.
        cwd: Directory whose ``tasks/`` holds a person's own tasks.

    Raises:
        UserError: Unknown command or flag, a missing task or one that is not good.
    """
    if not argv or any(argument in {"--help", "-h"} for argument in argv):
        sys.stdout.write(_help(help_text.width()))
        return 0
    name, *rest = argv
    if name not in _COMMANDS:
        hint = suggestion(name, _COMMANDS) or f"; there are {', '.join(_COMMANDS)}"
        raise UserError(f"unknown command tasks {name}{hint}")
    run, flags = _COMMANDS[name]
    given = flag_parser.read(rest, by_name(flags), command=f"imagebeam tasks {name}", words=True, beam=False)
    return run(given, cwd)


def _list(given: flag_parser.Arguments, cwd: Path) -> int:
    _no_words(given, "list")
    models = catalog.load_models_file(_models_path(given, cwd))
    rows = []
    for file in catalog.list_tasks(cwd):
        task = catalog.build_task(file, models)
        rows.append(
            {
                "name": task.name,
                "version": task.version,
                "unit": task.unit,
                "model": task.model,
                "from": "shipped" if file.shipped else file.source,
                "description": task.description,
            }
        )
    if given.values.get("json"):
        return _write_json(rows)
    widths = {key: max(len(str(row[key])) for row in rows) for key in ("name", "version", "unit", "from")}
    for row in rows:
        head = "  ".join(f"{row[key]:<{width}}" for key, width in widths.items())
        sys.stdout.write(f"{head}  {' '.join(row['description'].split())}".rstrip() + "\n")
    return 0


def _show(given: flag_parser.Arguments, cwd: Path) -> int:
    if len(given.words) != 1:
        raise UserError("imagebeam tasks show takes one task, such as imagebeam tasks show image_quality")
    file = catalog.find_task(given.words[0], cwd)
    models = catalog.load_models_file(_models_path(given, cwd))
    task = catalog.build_task(file, models, model=given.values.get("model"))
    if given.values.get("json"):
        return _write_json(_facts(task, models, file.source))
    sys.stdout.write("\n".join([*_fact_lines(_facts(task, models, file.source)), "", file.text.strip()]) + "\n")
    return 0


def _check(given: flag_parser.Arguments, cwd: Path) -> int:
    if not given.words:
        raise UserError("imagebeam tasks check takes files, such as imagebeam tasks check tasks/poles.yaml")
    models = catalog.load_models_file(_models_path(given, cwd))
    facts = []
    for word in given.words:
        file = catalog.find_task(word, cwd)
        facts.append(_facts(catalog.build_task(file, models, model=given.values.get("model")), models, file.source))
    if given.values.get("json"):
        return _write_json(facts)
    sys.stdout.write("\n\n".join("\n".join(_fact_lines(fact)) for fact in facts) + "\n")
    return 0


def _new(given: flag_parser.Arguments, cwd: Path) -> int:
    if len(given.words) != 1:
        raise UserError("imagebeam tasks new takes one name, such as imagebeam tasks new street_light")
    name = given.words[0]
    shown = f"{catalog.TASKS_DIR}/{name}.yaml"
    path = cwd / shown
    text = resources.files("imagebeam.transforms.tasks").joinpath("data/task_template.yaml").read_text(encoding="utf-8")
    text = text.replace("name: my_task", f"name: {name}")
    # A name that no task can have is refused before there is a file.
    parse_task(text, source=f"tasks new {name}", default_model=catalog.load_models_file().default)
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("w" if given.values.get("force") else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{shown} already exists; edit it, or use --force to overwrite it") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    sys.stdout.write(f"{shown} written; edit it, then: imagebeam tasks check {shown}\n")
    return 0


_COMMANDS: Final[Mapping[str, tuple[Callable[[flag_parser.Arguments, Path], int], tuple[Flag, ...]]]] = {
    "list": (_list, (MODELS_FILE, JSON)),
    "show": (_show, _COMMON),
    "new": (_new, (FORCE,)),
    "check": (_check, _COMMON),
}


def _facts(task: Task, models: Models, where: str) -> dict[str, Any]:
    profile = models.profile(task.model)
    if profile.locations:
        # A model takes the same tasks wherever it is.
        profile.check(profile.locations[0], Lane.ONLINE, task)
    usage = estimate_usage(profile, task, 1)
    costs = {lane: cost_usd(profile, lane, usage) for lane in _LANES if lane in profile.prices}
    return {
        "name": task.name,
        "from": where,
        "version": task.version,
        "model": task.model,
        "unit": task.unit,
        "columns": {column.name: column.bigquery_type for column in task.columns()},
        "prompt_fields": list(task.prompt_fields()),
        "schema": task.schema,
        "tokens_per_image": {
            "input": usage.prompt_tokens,
            "output": usage.output_tokens,
            "thoughts": usage.thought_tokens,
        },
        "usd_per_image": {lane: float(cost) for lane, cost in costs.items()},
        "prices_as_of": models.as_of.isoformat(),
        "warnings": list(task.ignored_warnings()),
    }


def _fact_lines(facts: Mapping[str, Any]) -> list[str]:
    tokens, costs = facts["tokens_per_image"], facts["usd_per_image"]
    thoughts = f" + {tokens['thoughts']:,} of thinking" if tokens["thoughts"] else ""
    price = ", ".join(f"${cost:.6f} {lane}" for lane, cost in costs.items()) or "price unknown"
    rows = {
        "task": f"{facts['name']}, {facts['from']}",
        "version": facts["version"],
        "model": facts["model"],
        "unit": facts["unit"],
        "columns": ", ".join(f"{name} {kind}" for name, kind in facts["columns"].items()),
        "per image": f"about {tokens['input']:,} tokens in, {tokens['output']:,} out{thoughts}: {price} "
        f"(prices of {facts['prices_as_of']})",
    }
    lines = [*rows.items(), *(("warning", text) for text in facts["warnings"])]
    return [f"{label:<10}{text}" for label, text in lines]


def _models_path(given: flag_parser.Arguments, cwd: Path) -> Path | None:
    written = given.values.get("models_file")
    return cwd / written if written else None


def _no_words(given: flag_parser.Arguments, command: str) -> None:
    if given.words:
        raise UserError(f"imagebeam tasks {command} takes no {given.words[0]!r}")


def _write_json(value: object) -> int:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    return 0


def _help(columns: int) -> str:
    commands = {
        "list": "Shipped tasks, and those in tasks/.",
        "show NAME": "A task: version, columns, tokens and price per image, and its file.",
        "new NAME": "Write tasks/NAME.yaml with every key explained.",
        "check FILE …": "Check task files; nothing is called.",
    }
    lines: Sequence[str] = [
        "imagebeam tasks: what can be asked",
        "",
        "Usage: imagebeam tasks COMMAND [NAME] [--flag=value …]",
        "",
        "Commands:",
        *help_text.table(commands, columns),
        "",
        "Example:",
        "  imagebeam tasks new street_light && imagebeam tasks check tasks/street_light.yaml",
        *help_text.flags_help((*_COMMON, FORCE), columns),
    ]
    return "\n".join(lines) + "\n"
