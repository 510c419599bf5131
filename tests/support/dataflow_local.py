"""A source, a bucket and the arguments of a job for the local Dataflow."""

from __future__ import annotations

import dataclasses
import json
import urllib.request
from pathlib import Path

import google.cloud.dataflow as dataflow
import google.cloud.storage as storage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from support.jobs import Job, make_job

from imagebeam.emulators.cloud import LocalCloud

IMAGE = "europe-west6-docker.pkg.dev/my-project/images/imagebeam:1"


@dataclasses.dataclass(frozen=True)
class Place:
    """A source with images, and an empty bucket for the files of the job."""

    job: Job
    bucket: str

    def arguments(self, *more: str, command: str = "classify") -> list[str]:
        options = {
            "runner": "DataflowRunner",
            "region": "us-central1",
            "work_dir": f"gs://{self.bucket}/imagebeam",
            "sdk_container_image": IMAGE,
            "dataflow_endpoint": self.job.cloud.url,
        }
        # The last value of a repeated flag wins; an empty value removes the flag.
        for argument in more:
            name, equals, value = argument.removeprefix("--").partition("=")
            options[name] = value if equals else "true"
        line = self.job.arguments(*(f"--{name}={value}" for name, value in options.items() if value))
        if command == "classify":
            return line
        return [command, *(argument for argument in line[1:] if not argument.startswith("--task="))]

    def staged(self) -> dict[str, storage.Blob]:
        return {blob.name.rpartition("/")[2]: blob for blob in storage.Client().list_blobs(self.bucket)}

    def submitted(self) -> list[dataflow.Job]:
        """Return the submitted jobs as messages of the Dataflow client."""
        with urllib.request.urlopen(f"{self.job.cloud.url}/_local/dataflow") as answer:
            jobs = [json.dumps(job) for job in json.load(answer)["jobs"]]
        return [dataflow.Job.from_json(text, ignore_unknown_fields=False) for text in jobs if self.bucket in text]

    def graph(self) -> beam_runner_api_pb2.Pipeline:
        """Return the staged graph."""
        staged = beam_runner_api_pb2.Pipeline()
        staged.ParseFromString(self.staged()["pipeline.pb"].download_as_bytes())
        return staged

    def steps(self) -> set[str]:
        """Return the names of the steps."""
        return {step.unique_name for step in self.graph().components.transforms.values()}

    def work(self) -> None:
        """Run the graph in this process."""
        graph = self.graph()
        for environment in graph.components.environments.values():
            environment.CopyFrom(beam_runner_api_pb2.Environment(urn="beam:env:embedded_python:v1"))
        FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()


def make_place(cloud: LocalCloud, directory: Path, rows: int) -> Place:
    job = make_job(cloud, directory, rows)
    bucket = storage.Client().create_bucket(f"{job.name.replace('_', '-')}-work")
    return Place(job, bucket.name)


@dataclasses.dataclass(frozen=True)
class Submission:
    command: str
    place: Place
    code: int
    said: str
    job: dataflow.Job
    calls: dict[str, int]
