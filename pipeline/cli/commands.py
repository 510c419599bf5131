"""Commands that run, plan and check jobs, search and subscribe. They import what they need when they run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imagebeam.pipeline.batch_command.settings import BATCH, DELETE, LIST
from imagebeam.pipeline.batch_input.settings import BATCH_RUN, load_input
from imagebeam.pipeline.export.settings import EXPORT, load_export
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.command import CommandGroup, FlagCommand, job_group
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.planning.settings import PLAN, load_plan
from imagebeam.pipeline.preflight.settings import PREFLIGHT
from imagebeam.pipeline.run.embed_settings import EMBED, JOB_FLAGS, JOBS, load_embed
from imagebeam.pipeline.run.settings import ClassifySettings, load_classify
from imagebeam.pipeline.similarity.settings import SEARCH, load_search
from imagebeam.pipeline.subscribe.settings import SUBSCRIBE, load_subscribe

if TYPE_CHECKING:
    from imagebeam.pipeline.results.run_result import RunResult

_BEAM: Final = "Beam options of the chosen runner (--region, --temp_location …) are accepted too."


def _place() -> dict[str, Any]:
    return {"cwd": Path.cwd(), "environ": os.environ}


def _classify(line: FlagValues) -> int:
    settings, beam_args = load_classify(line, **_place())
    from imagebeam.pipeline.jobs import classify as job

    return job.run(settings, beam_args, _printer(settings)).exit_code


def _embed(line: FlagValues) -> int:
    settings, beam_args = load_embed(line, **_place())
    from imagebeam.pipeline.jobs import embed as job

    return job.run(settings, beam_args, _printer(settings)).exit_code


def _printer(settings: ClassifySettings) -> Callable[[RunResult], None]:
    from imagebeam.pipeline.results.run_result import print_result

    return functools.partial(print_result, as_json=settings.as_json)


def _plan(job: str, line: FlagValues) -> int:
    settings = load_plan(JOBS[job], line, **_place())
    from imagebeam.pipeline.planning import command

    command.print_plan(command.run(settings), as_json=settings.settings.as_json)
    return 0


def _preflight(job: str, line: FlagValues) -> int:
    from imagebeam.pipeline.preflight import command

    return command.run(JOBS[job], line, **_place())


def _search(line: FlagValues) -> int:
    settings = load_search(line, **_place())
    from imagebeam.pipeline.similarity import command
    from imagebeam.pipeline.similarity.result import print_hits

    command.run(settings, functools.partial(print_hits, as_json=settings.as_json))
    return 0


def _export(line: FlagValues) -> int:
    settings = load_export(line, **_place())
    from imagebeam.pipeline.export import command

    return command.run(settings)


def _subscribe(line: FlagValues) -> int:
    settings = load_subscribe(line, **_place())
    from imagebeam.pipeline.subscribe import command

    return command.run(settings)


def _batch(name: str, line: FlagValues) -> int:
    from imagebeam.pipeline.batch_command import command

    return command.run(name, line, cwd=Path.cwd())


def _batch_run(line: FlagValues) -> int:
    settings = load_input(line, **_place())
    from imagebeam.pipeline.batch_command import command

    return command.run_input(settings)


classify: Final = FlagCommand(
    "classify",
    CLASSIFY,
    _classify,
    summary="Run Gemini on every image of a table and write the answers to BigQuery.",
    usage="--task=NAME --source=TABLE --results=DATASET [--flag=value …]",
    examples=(
        "imagebeam classify --task=utility_pole --limit=100",
        "imagebeam classify --task=my_task.yaml --near=46.948,7.447,500",
        "imagebeam classify --task=describe --lane=flex --reprocess=outdated",
    ),
    notes=f"Flags can also be set in imagebeam.yaml. {_BEAM}",
    beam=True,
)

embed: Final = FlagCommand(
    "embed",
    EMBED,
    _embed,
    summary="Compute an embedding of every image of a table and write it to BigQuery.",
    usage="--source=TABLE --results=DATASET [--flag=value …]",
    examples=(
        "imagebeam embed --dimension=768 --limit=100",
        "imagebeam embed --model=multimodalembedding@001 --location=us-central1",
        "imagebeam embed --lane=batch --work_dir=gs://my-bucket/imagebeam",
    ),
    notes="Each model and dimension has a table, embeddings_<model>_<dimension>; the view embeddings combines them. "
    "The outcome of each image is in the table outcomes, under task embed/<model>/<dimension>.\n\n"
    f"Flags that imagebeam classify also has can be set in imagebeam.yaml. {_BEAM}",
    beam=True,
)

plan: Final = job_group(
    "plan",
    _plan,
    JOB_FLAGS,
    PLAN,
    summary="Estimate units, duration and cost of a run in each lane.",
    usage="[--probe=N] [--sample_images=N] ",
    examples=(
        "imagebeam plan --task=utility_pole",
        "imagebeam plan --task=utility_pole --reprocess=outdated --max_tpm=4000000",
        "imagebeam plan embed --dimension=768 --probe=5",
    ),
    notes="Also accepts all flags of imagebeam classify or embed. The model is called only with --probe. The quota is "
    "--max_rpm and --max_tpm, or else the published or an assumed quota, which the plan prints.",
)

preflight: Final = job_group(
    "preflight",
    _preflight,
    JOB_FLAGS,
    PREFLIGHT,
    summary="Check everything a run needs, and print how to fix failures.",
    usage="[--no_probe] [--json] ",
    examples=(
        "imagebeam preflight --task=utility_pole",
        "imagebeam preflight --task=utility_pole --lane=batch --work_dir=gs://b/runs",
        "imagebeam preflight embed --dimension=768 --no_probe",
    ),
    notes="Also accepts all flags of imagebeam classify or embed. Unless --no_probe is set, preflight makes two paid "
    "calls with one image (a fraction of a cent), which are not part of a run. Checks delete everything that they "
    "create.\n\n"
    "Exit codes: 0 nothing failed, 2 you must fix something, 3 a service is not available.",
)

search: Final = FlagCommand(
    "search",
    SEARCH,
    _search,
    summary="Find images by text, by a picture, or by another image of the table.",
    usage="--text=TEXT|--image=FILE|--like=UNIT_ID --results=DATASET [--flag=value …]",
    examples=(
        "imagebeam search --text='a dark street' --html=found.html --thumbnails",
        "imagebeam search --like=o1:0123:00250082 --out_table=my_dataset.similar",
    ),
    notes="imagebeam embed computes the embeddings. A search covers one model and dimension.",
)

export: Final = FlagCommand(
    "export",
    EXPORT,
    _export,
    summary="Write the answers of a task to a file: CSV, Parquet, JSON Lines, GeoJSON or tuning data.",
    usage="--task=NAME --results=DATASET --output=FILE [--flag=value …]",
    examples=(
        "imagebeam export --task=utility_pole --output=poles.csv",
        "imagebeam export --task=utility_pole --output=gs://my-bucket/poles.geojson",
        "imagebeam export --task=describe --format=tuning_jsonl --output=train.jsonl",
    ),
    notes="The file has one row per unit with its newest answer, ordered by unit_id: the columns of the task's view, "
    "_observation_ids, _cost_usd, and the columns of --keep_columns. It appears when it is complete.\n\n"
    "tuning_jsonl has a request and its answer per line. Requests are built again from the source, so it needs the "
    "source and --keep_columns of the run.",
)

subscribe: Final = FlagCommand(
    "subscribe",
    SUBSCRIBE,
    _subscribe,
    summary="Link the Imagery Insights dataset to your project.",
    usage="--customer_id=ID [--location=us|eu] [--dry_run] | --list",
    examples=(
        "imagebeam subscribe --list --location=eu",
        "imagebeam subscribe --customer_id=1234-5678 --project=my-project",
    ),
    notes="A dataset that is already linked is left unchanged. Linking is free; queries are not.",
)


#: ``batch status`` does not wait. It accepts the flags about waiting, as it always has, but does not list them.
_SHOWN: Final = {"status": {name: flag for name, flag in BATCH.items() if name not in ("batch_poll_s", "no_wait")}}

_batch_commands: Final[dict[str, FlagCommand]] = {
    "run": FlagCommand(
        "run",
        BATCH_RUN,
        _batch_run,
        summary="Create one job on requests that you already have, and wait for its end.",
        usage="--model=MODEL --input=PLACE --output=PLACE [--flag=value …]",
        examples=("imagebeam batch run --model=NAME --input=gs://b/in.jsonl --output=gs://b/out",),
        notes="The same command continues its run: its job is created once.",
    ),
    **{
        name: FlagCommand(name, flags, functools.partial(_batch, name), summary=summary, shown=_SHOWN.get(name))
        for name, (flags, summary) in {
            "status": (BATCH, "Show the state of every job."),
            "collect": (BATCH, "Create jobs, collect answers and retry, until all runs have ended."),
            "cancel": (
                BATCH,
                "Cancel the jobs of --run_id. Finished answers are kept; other runs can process the other units.",
            ),
            "list": (LIST, "List the runs of a work directory, open and ended."),
            "delete": (DELETE, "Delete the jobs of an ended run from Vertex AI; answers are kept."),
        }.items()
    },
}

batch: Final = CommandGroup(
    "batch",
    _batch_commands,
    summary="Run batch jobs on your own requests, and manage the batch jobs of all runs.",
    usage=f"{'|'.join(_batch_commands)} [--flag=value …]",
    examples=("imagebeam batch collect --work_dir=gs://my-bucket/imagebeam",),
    shown=BATCH,
)
