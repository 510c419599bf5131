"""``imagebeam tasks list|show|new|check``: tasks, and what they cost per image."""

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.command import CommandGroup, FlagCommand
from imagebeam.pipeline.flags.execution import ForceSettings
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Flags, pick
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage, task_warnings
from imagebeam.transforms.tasks.model_profiles import Models
from imagebeam.transforms.tasks.task import Task, parse_task

_LANES: Final = (Lane.ONLINE, Lane.FLEX)


_LIST: Final = pick(CLASSIFY, "models_file", "json")
_SHOW: Final = pick(CLASSIFY, "model", "price_as", "models_file", "json")
_FORCE: Final = flags_of(ForceSettings)


def _list(given: FlagValues, cwd: Path) -> int:
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
    if given.given.get("json"):
        return _write_json(rows)
    columns = ("name", "version", "unit", "from", "description")
    Console().print_table(columns, [[row[column] for column in columns] for row in rows])
    return 0


def _show(given: FlagValues, cwd: Path) -> int:
    if len(given.words) != 1:
        raise UserError("imagebeam tasks show takes one task, such as imagebeam tasks show image_quality")
    file = catalog.find_task(given.words[0], cwd)
    models = catalog.load_models_file(_models_path(given, cwd))
    task = catalog.build_task(file, models, model=given.given.get("model"))
    if given.given.get("json"):
        return _write_json(_facts(task, models, file.source, given.given.get("price_as")))
    facts = _facts(task, models, file.source, given.given.get("price_as"))
    Console().print(*_fact_lines(facts), "", file.text.strip())
    return 0


def _check(given: FlagValues, cwd: Path) -> int:
    if not given.words:
        raise UserError("imagebeam tasks check takes files, such as imagebeam tasks check tasks/poles.yaml")
    models = catalog.load_models_file(_models_path(given, cwd))
    facts = []
    for word in given.words:
        file = catalog.find_task(word, cwd)
        task = catalog.build_task(file, models, model=given.given.get("model"))
        facts.append(_facts(task, models, file.source, given.given.get("price_as")))
    if given.given.get("json"):
        return _write_json(facts)
    Console().print("\n\n".join("\n".join(_fact_lines(fact)) for fact in facts))
    return 0


def _new(given: FlagValues, cwd: Path) -> int:
    if len(given.words) != 1:
        raise UserError("imagebeam tasks new takes one name, such as imagebeam tasks new street_light")
    name = given.words[0]
    shown = f"{catalog.TASKS_DIR}/{name}.yaml"
    path = cwd / shown
    text = resources.files("imagebeam.transforms.tasks").joinpath("data/task_template.yaml").read_text(encoding="utf-8")
    text = text.replace("name: my_task", f"name: {name}")
    # Reject an invalid name before a file is written.
    parse_task(text, source=f"tasks new {name}", default_model=catalog.load_models_file().default)
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("w" if given.given.get("force") else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{shown} already exists; edit it, or use --force to overwrite it") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    Console().print(f"{shown} written; edit it, then: imagebeam tasks check {shown}")
    return 0


def _facts(task: Task, models: Models, where: str, price_as: str | None) -> dict[str, Any]:
    profile = models.profile(task.model, price_as=price_as)
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
        "usd_per_image": {lane: float(cost) for lane, cost in costs.items() if cost is not None},
        "prices_as_of": models.as_of.isoformat(),
        "warnings": list(task_warnings(models, profile, task)),
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


def _models_path(given: FlagValues, cwd: Path) -> Path | None:
    written = given.given.get("models_file")
    return cwd / written if written else None


def _write_json(value: object) -> int:
    Console().print_json(value)
    return 0


def _command(name: str, run: Callable[[FlagValues, Path], int], flags: Flags, usage: str, summary: str) -> FlagCommand:
    return FlagCommand(
        name,
        flags,
        lambda line: run(line, Path.cwd()),
        summary=summary,
        usage=f"{usage}[--flag=value …]",
        words=bool(usage),
    )


command: Final = CommandGroup(
    "tasks",
    {
        "list": _command("list", _list, _LIST, "", "List shipped tasks and those in tasks/."),
        "show": _command("show", _show, _SHOW, "NAME ", "Show version, columns, price per image and file of a task."),
        "new": _command("new", _new, _FORCE, "NAME ", "Write tasks/NAME.yaml with every key explained."),
        "check": _command("check", _check, _SHOW, "FILE … ", "Check task files without calling a service."),
    },
    summary="List, show, create and check tasks: prompts with an answer schema.",
    usage="COMMAND [NAME] [--flag=value …]",
    examples=(
        "imagebeam tasks new street_light",
        "imagebeam tasks check tasks/street_light.yaml",
    ),
    shown={**_SHOW, **_FORCE},
)
