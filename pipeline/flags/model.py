"""Settings classes: pydantic models whose fields are declared once, with :class:`Setting` metadata."""

import functools
from typing import Any, ClassVar

import pydantic
from pydantic_core import ErrorDetails, PydanticUndefined

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion


class Settings(pydantic.BaseModel):
    """Base of every settings class.

    A class that declares settings names their heading, and whether ``imagebeam.yaml`` may contain them::

        class LimitSettings(Settings, group=Group.LIMITS):
            in_flight: Annotated[int, Setting("Concurrent calls per worker process.", minimum=1)] = 256

    Classes combine by inheritance. A subclass declares a field again to change its help text or default.
    Values are validated, both from the command line and from Python.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)

    declared: ClassVar[tuple[Group | None, bool | None]] = (None, None)

    def __init_subclass__(cls, *, group: Group | None = None, in_file: bool | None = None, **kwargs: Any) -> None:
        """Remember the heading of the settings that the class declares."""
        super().__init_subclass__(**kwargs)
        cls.declared = (group, in_file)

    def __init__(self, **values: Any) -> None:
        """Check values.

        Raises:
            UserError: A value is invalid, missing or unknown.
        """
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise UserError("; ".join(_problem(each, type(self)) for each in error.errors())) from None

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        field = str(info.field_name)
        setting = flags_of(cls).get(cls.model_fields[field].alias or field)
        if setting is None or value in (None, setting.default):
            return value
        return flag_values.read(setting, value, where=setting.name)


def _problem(error: ErrorDetails, model: type[Settings]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "extra_forbidden":
        return f"unknown setting {name}{suggestion(name, list(model.model_fields))}"
    return f"{name}: {error['msg'].lower()}"


@functools.cache
def flags_of(model: type[Settings]) -> Flags:
    """Return the settings of a class, by name."""
    found = {}
    for name, field in model.model_fields.items():
        setting = next((part for part in field.metadata if isinstance(part, Setting)), None)
        if setting is None:
            continue
        # The class that declared a name first decides on its heading, the one that declared it last on the file.
        declared = [kind.declared for kind in model.__mro__ if issubclass(kind, Settings) and name in kind.model_fields]
        groups = [group for group, _ in declared if group is not None]
        in_file = [allowed for _, allowed in declared if allowed is not None]
        flag = field.alias or name
        found[flag] = setting.of_field(
            flag,
            field.annotation,
            None if field.default is PydanticUndefined else field.get_default(call_default_factory=True),
            in_file=in_file[0] if in_file else True,
            group=groups[-1] if groups else Group.RUN,
        )
    return found
