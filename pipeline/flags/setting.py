"""Declaration of a setting, from which command line, imagebeam.yaml, templates and documentation are generated."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final


class Kind(enum.Enum):
    """Format of a value on the command line."""

    TEXT = "text"
    INTEGER = "a whole number"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    NAMES = "names, separated by commas"
    PAIRS = "name=value pairs, separated by commas"
    BOX = "west,south,east,north in degrees"
    CIRCLE = "latitude,longitude,radius in meters"
    TIME = "a date or an RFC 3339 time"


class Group(enum.StrEnum):
    """Headings of ``--help``, in order."""

    TASK = "Task"
    SEARCH = "Search"
    EXPORT = "Export"
    SOURCE = "Source"
    UNITS = "Units"
    RESULTS = "Results"
    MODEL = "Model"
    LIMITS = "Limits"
    BATCH = "Batch jobs (--lane=batch)"
    SQL = "Embeddings in BigQuery (--lane=sql)"
    PLAN = "Plan"
    SCHEDULE = "Schedule"
    TEMPLATE = "Template"
    RUN = "Run"


_METAVARS: Final = {
    Kind.INTEGER: "N",
    Kind.NUMBER: "NUMBER",
    Kind.NAMES: "NAME,…",
    Kind.PAIRS: "NAME=PATH,…",
    Kind.BOX: "W,S,E,N",
    Kind.CIRCLE: "LAT,LNG,METERS",
    Kind.TIME: "TIME",
}
#: Units of a number, by the last word of the setting's name.
_UNITS: Final = {"s": "SECONDS", "usd": "USD", "percent": "PERCENT", "minutes": "MINUTES", "bytes": "BYTES"}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """Declaration of a setting, as metadata of a field: ``limit: Annotated[int | None, Setting("…")] = None``.

    Attributes:
        help: Meaning, unit and effect, in one or two short sentences. ``--help`` adds choices and default.
        metavar: What the value is, for ``--help``: ``TABLE``, ``N``. Derived from the type if empty.
        example: A valid value, for messages, ``imagebeam.yaml`` and documentation.
        minimum: Smallest number, included unless ``above`` is set.
        maximum: Largest number, included.
        above: Exclude ``minimum`` itself.
        pattern: Regular expression for the whole text, or for each name of a list.
        form: Description of that pattern for messages.
        choices: Allowed values, where the type (an enum or Literal) does not list them.
        repeatable: Add to the value when the flag is repeated, instead of replacing it.
        computed: Description of a default that is computed.
        aliases: Deprecated names.
        replaced_by: Setting to use instead of this deprecated one.
        to_beam: Pass the value to the Beam option of the same name, too.
        in_file: Whether ``imagebeam.yaml`` may contain it; None for the value of its class.
        group: Heading, if it differs from the one of its class.
        kind: Format of the value, if the type does not determine it.
        name: Name in snake_case. From the field.
        default: Value when none is given; None for none. From the field.
    """

    help: str
    metavar: str = ""
    example: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: bool = False
    pattern: str | None = None
    form: str = ""
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    computed: str = ""
    aliases: tuple[str, ...] = ()
    replaced_by: str = ""
    to_beam: bool = False
    in_file: bool | None = None
    group: Group | None = None
    kind: Kind | None = None
    name: str = ""
    default: Any = None

    def of_field(self, name: str, annotation: Any, default: Any, *, in_file: bool, group: Group) -> "Setting":
        """Return the declaration, completed from the field that it belongs to."""
        kind, choices = _kind_of(annotation)
        kind, last = self.kind or kind, name.rpartition("_")[2]
        by_type = _METAVARS.get(kind, "") if kind not in {Kind.NUMBER, Kind.INTEGER} else ""
        return dataclasses.replace(
            self,
            name=name,
            kind=kind,
            choices=tuple(str(choice) for choice in self.choices or choices),
            default=default,
            metavar=self.metavar or by_type or _UNITS.get(last, _METAVARS.get(kind, "")),
            in_file=in_file if self.in_file is None else self.in_file,
            group=self.group or group,
        )


#: Settings of a command, by name, in the order of their declaration.
Flags = Mapping[str, Setting]


def pick(flags: Flags, *names: str) -> Flags:
    """Return some settings."""
    return {name: flags[name] for name in names}


_BY_TYPE: Final[Mapping[Any, Kind]] = {
    bool: Kind.BOOLEAN,
    int: Kind.INTEGER,
    float: Kind.NUMBER,
    Decimal: Kind.NUMBER,
    tuple[str, ...]: Kind.NAMES,
    Mapping[str, str]: Kind.PAIRS,
    tuple[float, float, float, float]: Kind.BOX,
    tuple[float, float, float]: Kind.CIRCLE,
}


def _kind_of(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    """Return form and choices of a type, which may be optional."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    if typing.get_origin(annotation) is typing.Literal:
        return Kind.TEXT, typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.StrEnum):
        return Kind.TEXT, tuple(map(str, annotation))
    return _BY_TYPE.get(annotation, Kind.TEXT), ()
