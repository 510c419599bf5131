"""The settings of ``imagebeam subscribe``, typed and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagebeam.pipeline.flags.layers import read_flags
from imagebeam.pipeline.flags.subscribe import CUSTOMER_ID, SUBSCRIBE
from imagebeam.transforms.core.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class SubscribeSettings:
    """What ``imagebeam subscribe`` was told.

    Attributes:
        project: Project that the linked dataset is made in.
        location: Where the data is, in small letters.
        hub_project: Project that shares it.
        exchange: Resource name of the data exchange.
        exchange_given: A person named it; else ``list`` looks into all that there are.
        listing: Resource name of the listing; empty with ``list``.
        dataset: Id of the linked dataset.
        list: Show what can be seen, and make nothing.
        dry_run: Print the request, and send nothing.
        json: Print JSON.
    """

    project: str
    location: str
    hub_project: str
    exchange: str
    listing: str
    dataset: str
    exchange_given: bool = False
    list: bool = False
    dry_run: bool = False
    json: bool = False


def subscribe_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> SubscribeSettings:
    """The settings of ``imagebeam subscribe``.

    Args:
        argv: Arguments after ``subscribe``.
        cwd: Directory that ``imagebeam.yaml`` is looked for in.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the project when nothing else says one.

    Raises:
        UserError: Unknown flag, bad value, contradiction, or nothing that names the listing.
    """
    said = read_flags(argv, SUBSCRIBE, command="imagebeam subscribe", cwd=cwd, environ=environ, beam=False)
    values = said.values
    if values["project"] is None:
        raise UserError("no project: give --project=PROJECT, or export GOOGLE_CLOUD_PROJECT")
    if values["list"] and values["dry_run"]:
        raise UserError("--list makes nothing, so there is no request for --dry_run to print: give one of them")
    location = values["location"].lower()
    return SubscribeSettings(
        project=values["project"],
        location=location,
        hub_project=values["hub_project"],
        exchange=_exchange(values, location),
        exchange_given=values["exchange"] is not None,
        listing="" if values["list"] else _listing(values, said.given, location),
        dataset=values["dataset"] or f"imagery_insights___preview___{location}",
        list=values["list"],
        dry_run=values["dry_run"],
        json=values["json"],
    )


def _exchange(values: Mapping[str, Any], location: str) -> str:
    name = values["exchange"] or f"imagery_insights_exchange_{location.replace('-', '_')}"
    return f"projects/{values['hub_project']}/locations/{location}/dataExchanges/{name}"


def _listing(values: Mapping[str, Any], given: Mapping[str, Any], location: str) -> str:
    """The resource name of the listing."""
    listing, customer = values["listing"], values["customer_id"]
    if listing is None and customer is None:
        raise UserError(
            "which listing? Give --customer_id, such as --customer_id="
            f"{CUSTOMER_ID.example}, or --listing; imagebeam subscribe --list shows those that you can see"
        )
    if listing is None:
        # Ids of listings have no dash.
        listing = f"imagery_insights_{customer.replace('-', '_')}__{location.replace('-', '_')}"
    if "/" not in listing:
        return f"{_exchange(values, location)}/listings/{listing}"
    also = [name for name in ("hub_project", "exchange", "customer_id") if name in given]
    if also:
        raise UserError(f"--listing={listing} is a whole resource name, so --{also[0]} says nothing: leave it out")
    where = listing.split("/")[3]
    if where.lower() != location:
        raise UserError(f"--listing is in {where}, and a linked dataset must be there too: give --location={where}")
    return str(listing)
