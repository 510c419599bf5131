"""The command line: finds the command, and turns errors into one line and an exit code.

Beam takes two seconds to import, so a command imports what it needs when it runs.
"""

import dataclasses
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.flags.classify import CLASSIFY, NO_PROBE
from imagebeam.pipeline.flags.embed import EMBED
from imagebeam.pipeline.flags.search import SEARCH
from imagebeam.pipeline.flags.subscribe import SUBSCRIBE
from imagebeam.transforms.core.errors import ImagebeamError, UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Entry points of this group add commands: the local Google Cloud, which production code never imports.
PLUGINS: Final = "imagebeam.commands"
#: Loading a plugin to ask what it does would make --help slow.
_PLUGIN_SUMMARIES: Final = {"local": "A local Google Cloud, to try everything without an account."}
_HELP: Final = ("--help", "-h", "help")


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments after ``imagebeam``; those of the process when None.

    Returns:
        The exit code: 0 ok · 1 books or internal · 2 your input · 3 systemic stop · 4 budget · 5 too many
        failures · 130 interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _run(arguments)
    except ImagebeamError as error:
        if _wants_traceback(arguments):
            traceback.print_exc()
        sys.stderr.write(f"imagebeam: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("imagebeam: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in _HELP:
        _print(_main_help(help_text.width()))
        return 0
    name, *rest = argv
    if name in {"--version", "-V"}:
        _print([f"imagebeam {importlib.metadata.version('imagebeam')}"])
        return 0
    if name in COMMANDS:
        return COMMANDS[name].run(rest)
    plugins = {point.name: point for point in importlib.metadata.entry_points(group=PLUGINS)}
    if name in plugins:
        return _run_plugin(plugins[name], rest)
    if name in _PLUGIN_SUMMARIES:
        raise UserError(
            f"imagebeam {name} is not part of this installation, as in the image for Dataflow: run "
            f"`pip install '.[{name}]'` in a checkout of imagebeam"
        )
    if name.startswith("-"):
        raise UserError(f"{name}: the command comes first, as in imagebeam classify --task=NAME")
    known = [*COMMANDS, *plugins]
    hint = suggestion(name, known) or f"; the commands are {', '.join(known)}"
    raise UserError(f"unknown command {name}{hint}")


def _run_plugin(point: importlib.metadata.EntryPoint, argv: list[str]) -> int:
    try:
        command: Callable[[list[str]], int] = point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("imagebeam"):
            raise
        raise UserError(
            f"imagebeam {point.name} needs the module {error.name}: pip install 'imagebeam[{point.name}]'"
        ) from error
    return command(argv)


def _classify(argv: list[str]) -> int:
    if any(argument in _HELP[:2] for argument in argv):
        _print(_classify_help(help_text.width()))
        return 0
    from imagebeam.pipeline.run.settings import classify_settings

    settings, beam_arguments = classify_settings(argv, cwd=Path.cwd(), environ=os.environ)
    from imagebeam.pipeline import classify

    return classify.run(settings, beam_arguments)


def _embed(argv: list[str]) -> int:
    if any(argument in _HELP[:2] for argument in argv):
        _print(_embed_help(help_text.width()))
        return 0
    from imagebeam.pipeline.run.embed_settings import embed_settings

    settings, beam_arguments = embed_settings(argv, cwd=Path.cwd(), environ=os.environ)
    from imagebeam.pipeline import embed

    return embed.run(settings, beam_arguments)


def _plan(argv: list[str]) -> int:
    if any(argument in _HELP[:2] for argument in argv):
        _print(_plan_help(help_text.width()))
        return 0
    from imagebeam.pipeline.plan.settings import plan_settings

    asked = plan_settings(argv, cwd=Path.cwd(), environ=os.environ)
    from imagebeam.pipeline.plan import command as plan_command

    return plan_command.run(asked)


def _preflight(argv: list[str]) -> int:
    if any(argument in _HELP[:2] for argument in argv):
        _print(_preflight_help(help_text.width()))
        return 0
    from imagebeam.pipeline.preflight import command as preflight_command

    return preflight_command.main(argv, cwd=Path.cwd(), environ=os.environ)


def _search(argv: list[str]) -> int:
    if any(argument in _HELP[:2] for argument in argv):
        _print(_search_help(help_text.width()))
        return 0
    from imagebeam.pipeline.search.settings import search_settings

    settings = search_settings(argv, cwd=Path.cwd(), environ=os.environ)
    from imagebeam.pipeline.search import command as search_command

    return search_command.run(settings)


def _subscribe(argv: list[str]) -> int:
    if any(argument in _HELP[:2] for argument in argv):
        _print(_subscribe_help(help_text.width()))
        return 0
    from imagebeam.pipeline.subscribe.settings import subscribe_settings

    settings = subscribe_settings(argv, cwd=Path.cwd(), environ=os.environ)
    from imagebeam.pipeline.subscribe import command as subscribe_command

    return subscribe_command.run(settings)


def _batch(argv: list[str]) -> int:
    from imagebeam.pipeline.batch import command as batch_command

    return batch_command.main(argv, cwd=Path.cwd())


def _tasks(argv: list[str]) -> int:
    from imagebeam.pipeline.cli import tasks as tasks_command

    return tasks_command.main(argv, cwd=Path.cwd())


def _init(argv: list[str]) -> int:
    from imagebeam.pipeline.cli import init as init_command

    return init_command.main(argv, cwd=Path.cwd())


def _template(argv: list[str]) -> int:
    from imagebeam.pipeline.dataflow import template_command

    return template_command.main(argv, cwd=Path.cwd(), environ=os.environ)


def _schedule(argv: list[str]) -> int:
    from imagebeam.pipeline.dataflow import schedule_command

    return schedule_command.main(argv, cwd=Path.cwd(), environ=os.environ)


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A command of ``imagebeam``.

    Attributes:
        summary: One line for ``imagebeam --help``.
        run: Takes the arguments after the command, gives the exit code.
    """

    summary: str
    run: Callable[[list[str]], int]


COMMANDS: Final[Mapping[str, Command]] = {
    "init": Command("Write imagebeam.yaml, which keeps the flags that repeat.", _init),
    "tasks": Command("List, show, make and check tasks: prompts with an answer schema.", _tasks),
    "preflight": Command("Try everything that a run needs, and say what mends what is missing.", _preflight),
    "plan": Command("Say what a run would do, take and cost in each lane; no model is called.", _plan),
    "classify": Command("Ask a model about every image of a table; answers go to BigQuery.", _classify),
    "embed": Command("Make a vector of every image of a table, to find what looks alike.", _embed),
    "search": Command("Find images by a text, a picture, or another image of the table.", _search),
    "batch": Command("Look after the jobs of runs with --lane=batch: status, collect, cancel.", _batch),
    "template": Command("Build a Flex Template of Dataflow, and start jobs from it.", _template),
    "schedule": Command("Print the commands that make a run come back every night.", _schedule),
    "subscribe": Command("Link the dataset of Imagery Insights to your project.", _subscribe),
}


def _main_help(columns: int) -> list[str]:
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    summaries |= {
        point.name: _PLUGIN_SUMMARIES.get(point.name, f"From {point.value.partition(':')[0]}.")
        for point in importlib.metadata.entry_points(group=PLUGINS)
    }
    return [
        "imagebeam: ask Gemini about every image of a BigQuery table",
        "",
        "Usage: imagebeam COMMAND [--flag=value …]",
        "",
        "Commands:",
        *help_text.table(summaries, columns),
        "",
        "Examples:",
        "  imagebeam local demo",
        "  imagebeam tasks list",
        "  imagebeam classify --task=image_quality --source=my-project.my_dataset.my_table --limit=100",
        "",
        "imagebeam COMMAND --help says more. Exit codes: 0 ok, 1 books or internal, 2 your input, 3 stopped,",
        "4 budget, 5 too many failures.",
    ]


def _preflight_help(columns: int) -> list[str]:
    return [
        "imagebeam preflight: try everything that a run needs, and say what mends what is missing",
        "",
        "Usage: imagebeam preflight [classify|embed] [the flags of that command] [--no_probe] [--json]",
        "",
        "Examples:",
        "  imagebeam preflight --task=utility_pole                  (the rest is in imagebeam.yaml)",
        "  imagebeam preflight classify --task=utility_pole --lane=batch --work_dir=gs://my-bucket/imagebeam",
        "  imagebeam preflight embed --dimension=768 --no_probe",
        "",
        "One flag more:",
        *help_text.table({f"--{NO_PROBE.name}": NO_PROBE.help}, columns),
        "",
        "Two real calls about one image are paid for, a fraction of a cent, in no run's books. What is written for a",
        "check is deleted again. Exit codes: 0 nothing failed, 2 you must mend something, 3 a service cannot be used.",
    ]


def _classify_help(columns: int) -> list[str]:
    return [
        "imagebeam classify: ask a model about every image of a table; answers go to BigQuery",
        "",
        "Usage: imagebeam classify --task=NAME --source=TABLE --results=DATASET [--flag=value …]",
        "",
        "Examples:",
        "  imagebeam classify --task=utility_pole --limit=100        (the rest is in imagebeam.yaml)",
        "  imagebeam classify --task=my_task.yaml --near=46.948,7.447,500 --captured_from=2025-01-01",
        "  imagebeam classify --task=describe --query='SELECT * FROM d.t' --lane=flex --due=new,outdated",
        *help_text.flags_help(CLASSIFY, columns),
        "",
        "Flags may stand in imagebeam.yaml too. Options of Beam (--region, --temp_location …) go through.",
    ]


def _embed_help(columns: int) -> list[str]:
    return [
        "imagebeam embed: make a vector of every image of a table; vectors go to BigQuery",
        "",
        "Usage: imagebeam embed --source=TABLE --results=DATASET [--flag=value …]",
        "",
        "Examples:",
        "  imagebeam embed --dimension=768 --limit=100              (the rest is in imagebeam.yaml)",
        "  imagebeam embed --model=multimodalembedding@001 --location=us-central1 --vector_index",
        "  imagebeam embed --lane=batch --work_dir=gs://my-bucket/imagebeam",
        *help_text.flags_help(EMBED, columns),
        "",
        "Every model and length has a table, embeddings_<model>_<dimension>; the view embeddings is over all of",
        "them. What became of each image stands in outcomes, under task embed/<model>/<dimension>.",
        "Flags of classify may stand in imagebeam.yaml too. Options of Beam (--region …) go through.",
    ]


def _plan_help(columns: int) -> list[str]:
    from imagebeam.pipeline.plan.settings import PLAN

    return [
        "imagebeam plan: what a run would do, take and cost in each lane; no model is called",
        "",
        "Usage: imagebeam plan [classify|embed] [--look=N] [--probe=N] [--flag=value …]",
        "",
        "Examples:",
        "  imagebeam plan --task=utility_pole                       (the rest is in imagebeam.yaml)",
        "  imagebeam plan --task=utility_pole --due=new,outdated --max_tpm=4000000",
        "  imagebeam plan embed --dimension=768 --probe=5",
        *help_text.flags_help(PLAN, columns),
        "",
        "All other flags are those of the command that is planned: imagebeam classify --help, imagebeam embed --help.",
        "--max_rpm and --max_tpm are taken as the quota; without them the published or an assumed one is, and said.",
    ]


def _search_help(columns: int) -> list[str]:
    return [
        "imagebeam search: find images by a text, a picture, or another image of the table",
        "",
        "Usage: imagebeam search --text=WORDS|--image=FILE|--like=ID --results=DATASET [--flag=value …]",
        "",
        "Examples:",
        "  imagebeam search --text='a dark street' --html=found.html --thumbnails",
        "  imagebeam search --like=o1:0123:00250082 --top_k=50 --out_table=my_dataset.like_it",
        *help_text.flags_help(SEARCH, columns),
        "",
        "Vectors come from imagebeam embed. A search is over the vectors of one model and length.",
    ]


def _subscribe_help(columns: int) -> list[str]:
    return [
        "imagebeam subscribe: link the dataset of Imagery Insights to your project",
        "",
        "Usage: imagebeam subscribe --customer_id=ID [--location=us|eu] [--dry_run]",
        "       imagebeam subscribe --list",
        "",
        "Examples:",
        "  imagebeam subscribe --list --location=eu",
        "  imagebeam subscribe --customer_id=1234-5678 --project=my-project",
        *help_text.flags_help(SUBSCRIBE, columns),
        "",
        "A dataset that is linked already is left as it is. Nothing here costs money; queries over it do.",
    ]


def _print(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _wants_traceback(argv: Sequence[str]) -> bool:
    said = " ".join(argv).replace("-", "_").replace("=", " ")
    return "__log_level debug" in said or bool(os.environ.get("IMAGEBEAM_TRACE"))
