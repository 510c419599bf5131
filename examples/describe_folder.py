"""Use imagebeam's transforms in another pipeline: describe every image under a ``gs://`` prefix.

::

    python examples/describe_folder.py --images='gs://my-bucket/photos/*.jpg' --answers=answers.jsonl \
        --project=my-project --task=describe

BigQuery is not used: outcomes are elements of the pipeline. Without a results dataset, answered images are not
recorded, so a second run calls the model again and is billed again.
"""

import argparse
import json
import os

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.options.pipeline_options import PipelineOptions

from imagebeam.transforms import CallModel, EngineSettings, Outcome, PackUnits, Unit, load_task


def answer_line(outcome: Outcome) -> str:
    """Format a line of the answers file."""
    return json.dumps({"uri": outcome.unit.unit_id, "status": outcome.status, "answer": outcome.answer.value})


def main(argv: list[str] | None = None) -> None:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", required=True, help="pattern such as gs://bucket/photos/*.jpg")
    parser.add_argument("--answers", required=True, help="output file with one JSON line per image")
    parser.add_argument("--task", default="describe", help="name of a shipped task, or a YAML file")
    parser.add_argument("--project", default=os.environ.get("GOOGLE_CLOUD_PROJECT"))
    arguments, beam_arguments = parser.parse_known_args(argv)
    settings = EngineSettings.for_task(load_task(arguments.task), project=arguments.project)
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *beam_arguments])) as pipeline:
        _ = (
            pipeline
            | fileio.MatchFiles(arguments.images)
            | beam.Map(lambda match: Unit.from_uri(match.path))
            | PackUnits()
            | CallModel(settings)
            | beam.Map(answer_line)
            | beam.io.WriteToText(arguments.answers, shard_name_template="")
        )


if __name__ == "__main__":
    main()
