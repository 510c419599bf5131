"""Use imagebeam's transforms in another pipeline: classify every image under a ``gs://`` prefix.

::

    python examples/describe_folder.py --images='gs://my-bucket/photos/*.jpg' --answers=answers.jsonl \
        --project=my-project --task=describe

BigQuery is not used: outcomes are elements of the pipeline. Without a results dataset, answered images are not
recorded, so a second run calls the model again and is billed again.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.options.pipeline_options import PipelineOptions

from imagebeam.transforms.call_model import CallModel
from imagebeam.transforms.core.records import Image, Outcome, Unit, UnitKind
from imagebeam.transforms.engine.settings import CallSettings, EngineSettings
from imagebeam.transforms.pack_units import PackUnits
from imagebeam.transforms.tasks.catalog import load_models_file, load_task


def unit_of(uri: str) -> Unit:
    """Create a unit of one image, with its URI as ID."""
    digest = hashlib.sha256(uri.encode()).hexdigest()
    return Unit(unit_id=uri, unit_type=UnitKind.OBSERVATION, input_digest=digest, images=(Image(uri, uri),))


def answer_line(outcome: Outcome) -> str:
    """Format a line of the answers file."""
    return json.dumps(
        {
            "uri": outcome.unit.unit_id,
            "status": outcome.status.value,
            "reason": outcome.reason,
            "answer": outcome.answer.value,
            "cost_usd": str(outcome.cost_usd),
        }
    )


def main(argv: list[str] | None = None) -> None:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", required=True, help="pattern such as gs://bucket/photos/*.jpg")
    parser.add_argument("--answers", required=True, help="output file with one JSON line per image")
    parser.add_argument("--task", default="describe", help="name of a shipped task, or a YAML file")
    parser.add_argument("--project", default=os.environ.get("GOOGLE_CLOUD_PROJECT"))
    parser.add_argument("--run_id", default=f"describe-folder-{os.getpid()}", help="ID of the run")
    arguments, beam_arguments = parser.parse_known_args(argv)

    models = load_models_file()
    task = load_task(arguments.task, models, Path.cwd())
    call_settings = CallSettings(
        project=arguments.project, location="global", task=task, profile=models.profile(task.model)
    )
    settings = EngineSettings(run_id=arguments.run_id, call_settings=call_settings, in_flight=64)

    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *beam_arguments])) as pipeline:
        _ = (
            pipeline
            | "Match" >> fileio.MatchFiles(arguments.images)
            | "Unit" >> beam.Map(lambda match: unit_of(match.path))
            | "Pack" >> PackUnits(size=50)
            | "Call" >> CallModel(settings, emit="outcomes")
            | "Line" >> beam.Map(answer_line)
            | "Write" >> beam.io.WriteToText(arguments.answers, shard_name_template="")
        )


if __name__ == "__main__":
    main()
