"""Build the request that launches a job from a Flex Template, for callers other than gcloud: ``flexTemplates:launch``.

Field names are those of ``LaunchFlexTemplateRequest`` in the Dataflow API v1b3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from imagebeam.pipeline.dataflow.template_launch import LaunchSpec, given_experiments, other_options
from imagebeam.pipeline.run import dataflow_options

#: Beam options that have a field in the environment.
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


def launch_url(project: str, region: str) -> str:
    """Return the address to send the request to, by POST."""
    return f"https://dataflow.googleapis.com/v1b3/projects/{project}/locations/{region}/flexTemplates:launch"


def launch_body(spec: LaunchSpec, *, template: str, job_name: str) -> dict[str, Any]:
    """Return the body of the request.

    It has no run id, so that it can be sent repeatedly: every job creates its own run id and label.

    Args:
        spec: The checked launch.
        template: ``gs://`` path of the template.
        job_name: Name of the job. Dataflow rejects a second job of that name while one is active.
    """
    return {
        "launchParameter": {
            "jobName": job_name,
            "containerSpecGcsPath": template,
            "parameters": dict(sorted(spec.parameters.items())),
            "environment": _environment(spec),
        }
    }


def _environment(spec: LaunchSpec) -> dict[str, Any]:
    options = spec.options
    found: dict[str, Any] = {
        field: getattr(options, name) for name, field in _FIELDS.items() if getattr(options, name) is not None
    }
    if options.flexrs_goal is not None:
        found["flexrsGoal"] = f"FLEXRS_{options.flexrs_goal}"
    if options.use_public_ips is False:
        found["ipConfiguration"] = "WORKER_IP_PRIVATE"
    run_label = f"{dataflow_options.RUN_LABEL}={spec.settings.run_id}"
    labels = [pair for pair in dataflow_options.label_pairs(options.labels) if pair != run_label]
    if labels:
        found["additionalUserLabels"] = dict(pair.split("=", 1) for pair in labels)
    if experiments := given_experiments(options):
        found["additionalExperiments"] = experiments
    if rest := other_options(spec.beam):
        found["additionalPipelineOptions"] = rest
    return found
