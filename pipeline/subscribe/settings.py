"""The settings of ``imagebeam subscribe``, typed and checked.

Default names are those of Google's guide for Imagery Insights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

import pydantic

from imagebeam.pipeline.flags.execution import ConfigSettings, JsonSettings
from imagebeam.pipeline.flags.inputs import PROJECT, PROJECT_FORM, ProjectSettings
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.run.settings import merge_layers, resolve_project
from imagebeam.transforms.core.errors import UserError

_ID: Final = r"[A-Za-z0-9_]{1,100}"


# fmt: off
class SubscribeFlags(Settings, group=Group.SOURCE, in_file=False):
    """The listing and the linked dataset."""

    customer_id: Annotated[str | None, Setting(
        "Your Google Maps Platform customer id; the listing is named after it.",
        metavar="ID", pattern=r"[A-Za-z0-9_-]{1,60}", form="letters, digits, - and _", example="1234-5678")] = None
    location: Annotated[str, Setting(
        "Location of the data, and of the linked dataset: us, eu or a region.",
        metavar="LOCATION", pattern=r"[A-Za-z]+(?:-[a-z]+[0-9]+)?", form="us, eu or a region", example="eu")] = "us"
    hub_project: Annotated[str, Setting(
        "Project of the publisher.", metavar="PROJECT", pattern=PROJECT, form=PROJECT_FORM,
        example="maps-platform-analytics-hub")] = "maps-platform-analytics-hub"
    exchange: Annotated[str | None, Setting(
        "Data exchange of the listing.", metavar="ID", pattern=_ID, form="letters, digits and _",
        example="imagery_insights_exchange_us", computed="imagery_insights_exchange_LOCATION")] = None
    listing: Annotated[str | None, Setting(
        "Id or resource name of the listing.", metavar="ID",
        pattern=rf"{_ID}|projects/[^/]+/locations/[^/]+/dataExchanges/{_ID}/listings/{_ID}",
        form="letters, digits and _, or projects/…/locations/…/dataExchanges/…/listings/…",
        example="imagery_insights_1234_5678__us", computed="imagery_insights_CUSTOMER__LOCATION")] = None
    dataset: Annotated[str | None, Setting(
        "Linked dataset to create in your project.", metavar="DATASET", pattern=r"[A-Za-z0-9_]{1,1024}",
        form="letters, digits and _", example="imagery_insights___us", group=Group.RESULTS,
        computed="imagery_insights___preview___LOCATION")] = None
    list: Annotated[bool, Setting(
        "List the listings that you can see and create nothing.", example="true", group=Group.RUN)] = False
    dry_run: Annotated[bool, Setting(
        "Print the subscribe request instead of sending it.", example="true", group=Group.RUN)] = False
# fmt: on


class SubscribeSettings(ConfigSettings, JsonSettings, ProjectSettings, SubscribeFlags):
    """Settings of ``imagebeam subscribe``."""

    @property
    def exchange_name(self) -> str:
        """Resource name of the data exchange."""
        exchange = self.exchange or f"imagery_insights_exchange_{self.location.replace('-', '_')}"
        return f"projects/{self.hub_project}/locations/{self.location}/dataExchanges/{exchange}"

    @property
    def listing_name(self) -> str:
        """Resource name of the listing; empty with ``list``."""
        if self.list:
            return ""
        # Ids of listings have no dash.
        customer, location = (text.replace("-", "_") for text in (self.customer_id or "", self.location))
        listing = self.listing or f"imagery_insights_{customer}__{location}"
        return listing if "/" in listing else f"{self.exchange_name}/listings/{listing}"

    @property
    def dataset_id(self) -> str:
        """Id of the linked dataset."""
        # Ids of datasets have no dash.
        return self.dataset or f"imagery_insights___preview___{self.location.replace('-', '_')}"

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.list and self.dry_run:
            raise UserError("--list creates nothing, so --dry_run has no request to print: use one of them")
        if self.list:
            return self
        if self.listing is None and self.customer_id is None:
            raise UserError(
                "no listing: set --customer_id, such as --customer_id=1234-5678, or --listing; imagebeam subscribe "
                "--list prints the listings that you can see"
            )
        if self.listing is not None and "/" in self.listing:
            also = [name for name in ("hub_project", "exchange", "customer_id") if name in self.model_fields_set]
            if also:
                raise UserError(
                    f"--listing={self.listing} is a whole resource name, so --{also[0]} has no effect: leave it out"
                )
            where = self.listing.split("/")[3]
            if where.lower() != self.location:
                raise UserError(
                    f"--listing is in {where}, and a linked dataset must be there too: use --location={where}"
                )
        return self


#: Settings of ``imagebeam subscribe``.
SUBSCRIBE: Final[Flags] = flags_of(SubscribeSettings)


def load_subscribe(line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> SubscribeSettings:
    """Return the settings of ``imagebeam subscribe``.

    Args:
        line: The command line.
        cwd: Directory that may contain ``imagebeam.yaml``.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the default project.

    Raises:
        UserError: Invalid value, contradiction, or nothing that names the listing.
    """
    found = merge_layers(line, SUBSCRIBE, cwd=cwd)
    project, location = resolve_project(found, environ), str(found.get(SUBSCRIBE["location"])).lower()
    return SubscribeSettings(**{**found.given, "project": project, "location": location})
