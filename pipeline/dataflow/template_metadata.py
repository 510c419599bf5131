"""The metadata of a Flex Template, made from the declarations of the settings: what the console shows and checks.

``templates/<job>.json`` holds the result, which a test compares. See ``imagebeam template metadata``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.embed import NO_DATAFLOW, SQL_ONLY
from imagebeam.pipeline.flags.setting import Flags, Group, Kind, Setting
from imagebeam.pipeline.run.embed_settings import DEFAULT_JOB, JOBS, Job
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Flags that are not parameters of a template, and why.
NO_PARAMETERS: Final[Mapping[str, str]] = {
    "project": "it is the project in which the job is launched",
    "runner": "a template always runs on Dataflow",
    "direct_num_workers": "Dataflow takes the number of workers from the job's environment (--num_workers)",
    "json": "the launcher only writes a log",
    "quiet": "the launcher only writes a log",
    **dict.fromkeys(
        ("batch_poll_s", "no_wait"),
        "a template does not wait for batch jobs; imagebeam batch collect collects their answers",
    ),
    "vector_index": "the launcher exits before the vectors are written; run imagebeam embed --vector_index later",
    **dict.fromkeys(SQL_ONLY, "templates do not support lane sql; use imagebeam embed --lane=sql"),
}
#: Values that a parameter cannot have, and why.
NO_VALUES: Final[Mapping[tuple[str, str], str]] = {
    ("lane", "sql"): NO_DATAFLOW,
}
#: Those of them that the launcher passes by itself.
GIVEN_BY_THE_LAUNCHER: Final = frozenset({"project", "runner"})
#: Parameters whose value is a file: in Cloud Storage, where the launcher can read it.
FILES: Final = ("task", "schema", "query_file", "polygon_file", "models_file", "config")
#: Parameters that a job always needs. It also needs one of source, query and query_file, which metadata cannot express.
REQUIRED: Final = frozenset({"job", "task", "results", "work_dir"})
#: Parameters whose default depends on the lane. The console sends what it shows, so it shows no default.
CHANGING_DEFAULTS: Final = frozenset({"unit_deadline_s", "call_timeout_s"})

_PARAM_TYPES: Final[Mapping[str, str]] = {
    "source": "BIGQUERY_TABLE",
    "work_dir": "GCS_WRITE_FOLDER",
    "schema": "GCS_READ_FILE",
    "query_file": "GCS_READ_FILE",
    "polygon_file": "GCS_READ_FILE",
    "models_file": "GCS_READ_FILE",
    "config": "GCS_READ_FILE",
}
#: Help texts where a template differs from the command line.
_HELP: Final[Mapping[str, str]] = {
    "task": "A shipped task such as utility_pole, or a YAML file as gs://bucket/path.yaml. With a prompt, the name "
    "under which answers are recorded.",
    "work_dir": "Directory for the files of runs, as gs://bucket/path.",
    "config": "An imagebeam.yaml file with values of parameters. Parameters that differ from their default override "
    "it.",
}
_NUMBER: Final = r"-?[0-9]+(?:\.[0-9]+)?"
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_.]*"
_GS: Final = r"gs://[a-z0-9][-_.a-z0-9]+[a-z0-9]"
_PATTERNS: Final[Mapping[str, str]] = {
    "task": rf"[a-z][a-z0-9_]*|{_GS}/.+\.ya?ml",
    "work_dir": rf"{_GS}(?:/.*)?",
    **dict.fromkeys(("schema", "query_file", "polygon_file", "models_file", "config"), rf"{_GS}/.+"),
}
_KIND_PATTERNS: Final[Mapping[Kind, str]] = {
    Kind.INTEGER: r"[0-9]+",
    Kind.NUMBER: r"[0-9]+(?:\.[0-9]+)?",
    Kind.BOOLEAN: r"[Tt]rue|TRUE|[Ff]alse|FALSE",
    Kind.PAIRS: rf"\s*{_NAME}\s*=[^=,]+(?:,\s*{_NAME}\s*=[^=,]+)*",
    Kind.BOX: rf"\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*){{3}}",
    Kind.CIRCLE: rf"\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*){{2}}",
    Kind.TIME: r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ].+)?",
}
#: How words of a flag's name are written in a label.
_WORDS: Final[Mapping[str, str]] = {"usd": "USD", "rpm": "RPM", "tpm": "TPM", "s": "(seconds)", "id": "id"}


#: What the job of each template does.
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "classify": "Runs Gemini on every image of a BigQuery table and writes the answers to BigQuery. Skips units that "
    "already have an answer.",
    "embed": "Computes an embedding of every image of a BigQuery table, for VECTOR_SEARCH. Skips images that already "
    "have one.",
}


def find_job(name: str) -> Job:
    """Return the job of a template.

    Raises:
        UserError: The job has no template.
    """
    if name not in JOBS:
        hint = suggestion(name, JOBS) or f"; there is one for {', '.join(JOBS)}"
        raise UserError(f"there is no template for {name}{hint}")
    return JOBS[name]


def parameters_of(job: Job) -> Flags:
    """Return the flags that are parameters of a template, and before them the one that selects the job."""
    flags = {name: flag for name, flag in job.flags.items() if name not in NO_PARAMETERS}
    # Defaults are not sent to the launcher, so the parameter is required and has one value. The service rejects any
    # other value, and a launch without it, before anything runs.
    own = Setting(
        f"Job of this template: {job.name}.", name="job", choices=(job.name,), example=job.name, group=Group.TASK
    )
    return flags if job.name == DEFAULT_JOB else {"job": own, **flags}


def metadata(job: Job) -> dict[str, Any]:
    """Return the metadata of a job's template, as Dataflow reads it.

    Deprecated names are hidden parameters, because Dataflow rejects parameters that the metadata does not have.
    """
    flags = parameters_of(job).values()
    aliases = [
        dataclasses.replace(flag, name=alias, replaced_by=flag.name, default=None)
        for flag in flags
        for alias in flag.aliases
    ]
    return {
        "name": f"imagebeam {job.name}",
        "description": _DESCRIPTIONS[job.name],
        "streaming": False,
        "parameters": [parameter(flag) for flag in (*flags, *aliases)],
    }


def text(job: Job) -> str:
    """Return the metadata as the text of its file."""
    return json.dumps(metadata(job), indent=2, ensure_ascii=False) + "\n"


def parameter(flag: Setting) -> dict[str, Any]:
    """Return a flag as a parameter of a template."""
    fields: dict[str, Any] = {
        "name": flag.name,
        "label": label(flag),
        "helpText": _help(flag),
        "isOptional": flag.name not in REQUIRED,
        "groupName": str(flag.group),
        "paramType": _param_type(flag),
    }
    default = default_of(flag)
    if default is not None:
        fields["defaultValue"] = default
    if flag.choices:
        allowed = [choice for choice in flag.choices if (flag.name, choice) not in NO_VALUES]
        fields["enumOptions"] = [{"value": choice, "label": choice} for choice in allowed]
    elif (pattern := pattern_of(flag)) is not None:
        fields["regexes"] = [f"^(?:{pattern})$"]
    return fields | ({"hiddenUi": True} if flag.replaced_by else {})


def label(flag: Setting) -> str:
    """Return the label of a flag.

    >>> from imagebeam.pipeline.flags.classify import CLASSIFY
    >>> label(CLASSIFY["max_cost_usd"])
    'Max cost USD'
    """
    words = " ".join(_WORDS.get(word, word) for word in flag.name.split("_"))
    return words[0].upper() + words[1:]


def default_of(flag: Setting) -> str | None:
    """Return the default that a template shows; None for none."""
    computed = flag.name in REQUIRED | CHANGING_DEFAULTS or flag.name in FILES or flag.computed
    if computed or flag.default in (None, (), {}):
        return None
    return flag_values.to_text(flag, flag.default)


def pattern_of(flag: Setting) -> str | None:
    """Return a regular expression for the whole value that works in Java, JavaScript and Python; None for any text.

    It is simple rather than strict: the job checks the value again.
    """
    if flag.name in _PATTERNS:
        return _PATTERNS[flag.name]
    if flag.kind is not None and flag.kind in _KIND_PATTERNS:
        return _KIND_PATTERNS[flag.kind]
    if flag.kind is Kind.NAMES:
        item = flag.pattern or _NAME
        return rf"\s*(?:{item})\s*(?:,\s*(?:{item})\s*)*"
    if flag.pattern is None:
        return None
    # Groups have no names in JavaScript's older syntax, and RE2 counts to 1,000 only.
    return re.sub(r"\(\?P<\w+>", "(?:", flag.pattern).replace("{1,1024}", "+")


def check_value(name: str, text: str) -> None:
    """Check that a template supports a value.

    Raises:
        UserError: Only the command line supports it.
    """
    if (name, text) in NO_VALUES:
        raise UserError(f"--{name}={text}: {NO_VALUES[name, text]}")


def is_path(task: str) -> bool:
    """Return whether a task is given as a file rather than by name."""
    return "/" in task or task.endswith((".yaml", ".yml"))


def _help(flag: Setting) -> str:
    meaning = _HELP.get(flag.name, flag.help)
    if missing := [choice for choice in flag.choices if (flag.name, choice) in NO_VALUES]:
        meaning = f"{meaning} Not in a template: {', '.join(missing)}."
    if flag.choices or flag.kind is Kind.BOOLEAN:
        return meaning
    is_file = flag.name in FILES and flag.name != "task"
    return f"{meaning} For example {'gs://my-bucket/' if is_file else ''}{flag.example}."


def _param_type(flag: Setting) -> str:
    if flag.name in _PARAM_TYPES:
        return _PARAM_TYPES[flag.name]
    if flag.choices:
        return "ENUM"
    kinds = {Kind.BOOLEAN: "BOOLEAN", Kind.INTEGER: "NUMBER", Kind.NUMBER: "NUMBER"}
    return kinds.get(flag.kind or Kind.TEXT, "TEXT")
