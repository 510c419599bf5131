"""What a run will do and cost, said before it starts; above a threshold a person must say yes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from imagebeam.pipeline.config import ClassifySettings
from imagebeam.transforms.books import Planned
from imagebeam.transforms.errors import UserError
from imagebeam.transforms.pricing import ModelProfile, cost_usd, estimate_usage
from imagebeam.transforms.run import RunSettings

CONFIRM_ABOVE_USD: Final = Decimal(20)

#: Takes a line for the person.
Say = Callable[[str], None]


def announce(
    settings: ClassifySettings, run: RunSettings, profile: ModelProfile, planned: Planned, say: Say
) -> Decimal:
    """Says what will be done and what it will cost about; gives the estimate in USD.

    Raises:
        UserError: It is dear, and nobody said yes.
    """
    task = run.task
    say(f"task     {task.name}, version {task.version}, {task.model} at {settings.location}, {settings.lane}")
    tell_units(planned, say)
    if not planned.due:
        return Decimal(0)
    images = task.max_images if task.unit == "asset" else 1
    usd = cost_usd(profile, settings.lane, estimate_usage(profile, task, images).times(planned.due))
    bound = "at most about" if task.unit == "asset" else "about"
    say(f"cost     {bound} ${usd:,.2f} at list price; images travel by {run.engine.asking.transport}")
    quota = profile.fixed_rpm(settings.location)
    if quota is not None and settings.max_rpm is None:
        hours = planned.due / quota / 60
        say(
            f"pace     at most {quota:,} calls a minute, the published quota of {task.model} here: {hours:,.1f} hours "
            "or more; --max_rpm gives the project's own"
        )
    confirm(settings, usd, bound=bound)
    return usd


def tell_units(planned: Planned, say: Say) -> None:
    """Says how many units of the source are in which state."""
    states = {
        "due": planned.due,
        "already done": planned.already_done,
        "outdated (--due=outdated asks again)": planned.outdated,
        "failed before (--due=failed asks again)": planned.failed_before,
        "submitted to a batch job": planned.submitted,
        "left out by --due": planned.not_due,
    }
    found = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    say(f"units    {planned.units_in:,} in: {found or 'nothing to do'}")
    if planned.rows_without_id:
        say(f"         {planned.rows_without_id:,} rows have no id: no unit can be made of them")
    if planned.assets_without_images:
        say(f"         {planned.assets_without_images:,} assets of the source have no imagery at all")


def confirm(settings: ClassifySettings, usd: Decimal, *, bound: str = "about") -> None:
    """Lets a run go on when it is cheap, capped, or a person said yes.

    Raises:
        UserError: None of these.
    """
    if usd > CONFIRM_ABOVE_USD and not settings.yes and settings.max_cost_usd is None:
        raise UserError(
            f"this will cost {bound} ${usd:,.2f}: add --yes to go on, cap it with --max_cost_usd, or try "
            "--limit=100 first"
        )
