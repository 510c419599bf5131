"""The request that starts a job from a Flex Template, for those who send it themselves: ``flexTemplates:launch``.

Field names are those of ``LaunchFlexTemplateRequest`` in the Dataflow API v1b3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from imagebeam.pipeline.dataflow.template_launch import Start, passed_on, wanted_experiments
from imagebeam.pipeline.run import dataflow_options

#: Options of Beam that the environment has a field for.
_FIELDS: Final[Mapping[str, str]] = {
    "num_workers": "numWorkers",
    "max_num_workers": "maxWorkers",
    "temp_location": "tempLocation",
    "staging_location": "stagingLocation",
    "machine_type": "machineType",
    "worker_region": "workerRegion",
    "worker_zone": "workerZone",
    "network": "network",
    "subnetwork": "subnetwork",
    "service_account_email": "serviceAccountEmail",
    "dataflow_kms_key": "kmsKeyName",
}


def url(project: str, region: str) -> str:
    """Where the request goes, by POST."""
    return f"https://dataflow.googleapis.com/v1b3/projects/{project}/locations/{region}/flexTemplates:launch"


def body(start: Start, *, template: str, job_name: str) -> dict[str, Any]:
    """The request's body.

    It names no run, so it can be sent again and again: every job makes a run id, and a label, of its own.

    Args:
        start: What is started.
        template: ``gs://`` place of the template.
        job_name: The job's name. Dataflow refuses a second job of a name while one is active.
    """
    return {
        "launchParameter": {
            "jobName": job_name,
            "containerSpecGcsPath": template,
            "parameters": dict(sorted(start.parameters.items())),
            "environment": _environment(start),
        }
    }


def _environment(start: Start) -> dict[str, Any]:
    options = start.options
    found: dict[str, Any] = {
        field: getattr(options, name) for name, field in _FIELDS.items() if getattr(options, name) is not None
    }
    if options.flexrs_goal is not None:
        found["flexrsGoal"] = f"FLEXRS_{options.flexrs_goal}"
    if options.use_public_ips is False:
        found["ipConfiguration"] = "WORKER_IP_PRIVATE"
    run_label = f"{dataflow_options.RUN_LABEL}={start.settings.run_id}"
    labels = [pair for pair in dataflow_options.label_pairs(options.labels) if pair != run_label]
    if labels:
        found["additionalUserLabels"] = dict(pair.split("=", 1) for pair in labels)
    if experiments := wanted_experiments(options):
        found["additionalExperiments"] = experiments
    if rest := passed_on(start.beam):
        found["additionalPipelineOptions"] = rest
    return found
