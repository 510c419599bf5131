"""The metadata of a Flex Template, made of the table of flags: what the console asks for, and what it checks.

``templates/<job>.json`` holds the result; a test proves that it is this. See ``imagebeam template metadata``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import BATCH_POLL_S, CLASSIFY, NO_WAIT, Flag, Group, Kind
from imagebeam.pipeline.flags.embed import EMBED, EMBED_SQL, NO_DATAFLOW, VECTOR_INDEX
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

#: Flags that are no parameters of a template, and why.
NO_PARAMETERS: Final[Mapping[str, str]] = {
    "project": "it is the project that the job is started in",
    "runner": "a template always runs on Dataflow",
    "direct_num_workers": "Dataflow takes the number of workers from the job's environment (--num_workers)",
    "json": "the launcher has no reader",
    "quiet": "the launcher's log is for looking at",
    **{
        flag.name: "a template waits for no batch job; imagebeam batch collect looks after them"
        for flag in (BATCH_POLL_S, NO_WAIT)
    },
    VECTOR_INDEX.name: "the launcher ends before there are vectors; run imagebeam embed --vector_index afterwards",
    **{flag.name: "a template has no lane sql; imagebeam embed --lane=sql has" for flag in EMBED_SQL},
}
#: Values that a parameter does not have, and why.
NO_VALUES: Final[Mapping[tuple[str, str], str]] = {
    ("lane", "sql"): NO_DATAFLOW,
}
#: Those of them that the launcher passes by itself.
GIVEN_BY_THE_LAUNCHER: Final = frozenset({"project", "runner"})
#: Parameters whose value is a file: in Cloud Storage, where the launcher can read it.
FILES: Final = ("task", "query_file", "polygon_file", "models_file", "config")
#: Parameters that a job always needs. One of source, query and query_file too, which metadata cannot say.
REQUIRED: Final = frozenset({"job", "task", "results", "work_dir"})
#: What the launcher runs when no parameter says which job.
DEFAULT_JOB: Final = "classify"

#: Parameters whose default is another one on lane flex. The console sends what it shows, so it shows none.
CHANGING_DEFAULTS: Final = frozenset({"unit_deadline_s", "call_timeout_s"})

_PARAM_TYPES: Final[Mapping[str, str]] = {
    "source": "BIGQUERY_TABLE",
    "work_dir": "GCS_WRITE_FOLDER",
    "query_file": "GCS_READ_FILE",
    "polygon_file": "GCS_READ_FILE",
    "models_file": "GCS_READ_FILE",
    "config": "GCS_READ_FILE",
}
#: Where a template means less than the command line.
_HELP: Final[Mapping[str, str]] = {
    "task": "A shipped task such as utility_pole, or a YAML file as gs://bucket/path.yaml.",
    "work_dir": "Directory for what runs leave behind, as gs://bucket/path.",
    "config": "An imagebeam.yaml with the parameters that repeat. Those that are no default override it.",
}
_NUMBER: Final = r"-?[0-9]+(?:\.[0-9]+)?"
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_.]*"
_GS: Final = r"gs://[a-z0-9][-_.a-z0-9]+[a-z0-9]"
_PATTERNS: Final[Mapping[str, str]] = {
    "task": rf"[a-z][a-z0-9_]*|{_GS}/.+\.ya?ml",
    "work_dir": rf"{_GS}(?:/.*)?",
    **dict.fromkeys(("query_file", "polygon_file", "models_file", "config"), rf"{_GS}/.+"),
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


@dataclasses.dataclass(frozen=True, slots=True)
class TemplateJob:
    """A job that has a template.

    Attributes:
        name: The command: ``classify`` or ``embed``.
        title: Name of the template in the console.
        description: What it does.
        flags: All flags of the command.
    """

    name: str
    title: str
    description: str
    flags: tuple[Flag, ...]

    @property
    def parameters(self) -> tuple[Flag, ...]:
        """The flags that are parameters, and before them what tells the launcher which job it is."""
        own = () if self.name == DEFAULT_JOB else (_job_flag(self.name),)
        return (*own, *(flag for flag in self.flags if flag.name not in NO_PARAMETERS))


JOBS: Final[Mapping[str, TemplateJob]] = {
    "classify": TemplateJob(
        "classify",
        "imagebeam classify",
        "Asks Gemini about every image of a BigQuery table; every answer becomes an accounted-for row of BigQuery. "
        "What is answered already is never asked again.",
        CLASSIFY,
    ),
    "embed": TemplateJob(
        "embed",
        "imagebeam embed",
        "Makes a vector of every image of a BigQuery table, for VECTOR_SEARCH. An image that has its vector already is "
        "never embedded again.",
        EMBED,
    ),
}


def find_job(name: str) -> TemplateJob:
    """A job by its name.

    Raises:
        UserError: It has no template.
    """
    if name not in JOBS:
        hint = suggestion(name, JOBS) or f"; there is one for {', '.join(JOBS)}"
        raise UserError(f"there is no template for {name}{hint}")
    return JOBS[name]


def metadata(job: TemplateJob) -> dict[str, Any]:
    """The metadata of a job's template, as Dataflow reads it."""
    return {
        "name": job.title,
        "description": job.description,
        "streaming": False,
        "parameters": [parameter(flag) for flag in job.parameters],
    }


def text(job: TemplateJob) -> str:
    """The metadata as the text of its file."""
    return json.dumps(metadata(job), indent=2, ensure_ascii=False) + "\n"


def parameter(flag: Flag) -> dict[str, Any]:
    """A flag as a parameter of a template."""
    fields: dict[str, Any] = {
        "name": flag.name,
        "label": label(flag),
        "helpText": _help(flag),
        "isOptional": flag.name not in REQUIRED,
        "groupName": flag.group.value,
        "paramType": _param_type(flag),
    }
    default = default_of(flag)
    if default is not None:
        fields["defaultValue"] = default
    if flag.choices:
        shown = [choice for choice in flag.choices if (flag.name, choice) not in NO_VALUES]
        fields["enumOptions"] = [{"value": choice, "label": choice} for choice in shown]
    elif (pattern := pattern_of(flag)) is not None:
        fields["regexes"] = [f"^(?:{pattern})$"]
    return fields


def label(flag: Flag) -> str:
    """A flag's name as people read it.

    >>> from imagebeam.pipeline.flags.classify import MAX_COST_USD
    >>> label(MAX_COST_USD)
    'Max cost USD'
    """
    words = " ".join(_WORDS.get(word, word) for word in flag.name.split("_"))
    return words[0].upper() + words[1:]


def default_of(flag: Flag) -> str | None:
    """The default that a template shows; None when a person gives the value, or nothing is the default."""
    if flag.name in REQUIRED | CHANGING_DEFAULTS or flag.name in FILES or flag.default in (None, ()):
        return None
    return flag_values.to_text(flag, flag.default)


def pattern_of(flag: Flag) -> str | None:
    """A regular expression for the whole value, which Java, JavaScript and Python read alike; None for any text.

    It is as strict as it is simple. What it lets through, the job checks again.
    """
    if flag.name in _PATTERNS:
        return _PATTERNS[flag.name]
    if flag.kind in _KIND_PATTERNS:
        return _KIND_PATTERNS[flag.kind]
    if flag.kind is Kind.NAMES:
        item = flag.pattern or _NAME
        return rf"\s*(?:{item})\s*(?:,\s*(?:{item})\s*)*"
    if flag.pattern is None:
        return None
    # Groups have no names in JavaScript's older syntax, and RE2 counts to 1,000 only.
    return re.sub(r"\(\?P<\w+>", "(?:", flag.pattern).replace("{1,1024}", "+")


def check_value(name: str, text: str) -> None:
    """Checks that a template can do what a parameter asks for.

    Raises:
        UserError: The command line can, but no template.
    """
    if (name, text) in NO_VALUES:
        raise UserError(f"--{name}={text}: {NO_VALUES[name, text]}")


def is_path(task: str) -> bool:
    """Whether a task is given as a file rather than by name."""
    return "/" in task or task.endswith((".yaml", ".yml"))


def _job_flag(name: str) -> Flag:
    # A template says nothing to its image but parameters, and defaults are not sent: so it is one that must be given.
    # The service refuses any other value, and a start without it, before anything runs.
    return Flag(
        "job", Kind.TEXT, f"What the image is to run: {name}.", Group.ASK, choices=(name,), example=name, in_file=False
    )


def _help(flag: Flag) -> str:
    meaning = _HELP.get(flag.name, flag.help)
    if missing := [choice for choice in flag.choices if (flag.name, choice) in NO_VALUES]:
        meaning = f"{meaning} Not in a template: {', '.join(missing)}."
    if flag.choices or flag.kind is Kind.BOOLEAN:
        return meaning
    is_file = flag.name in FILES and flag.name != "task"
    return f"{meaning} For example {'gs://my-bucket/' if is_file else ''}{flag.example}."


def _param_type(flag: Flag) -> str:
    if flag.name in _PARAM_TYPES:
        return _PARAM_TYPES[flag.name]
    if flag.choices:
        return "ENUM"
    kinds = {Kind.BOOLEAN: "BOOLEAN", Kind.INTEGER: "NUMBER", Kind.NUMBER: "NUMBER"}
    return kinds.get(flag.kind, "TEXT")
