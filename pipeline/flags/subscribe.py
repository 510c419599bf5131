"""The flags of ``imagebeam subscribe``. Names are those of Google's guide for Imagery Insights, and can be replaced."""

from typing import Final

from imagebeam.pipeline.flags.classify import CONFIG, JSON, PROJECT, Flag, Group, Kind

_ID: Final = r"[A-Za-z0-9_]{1,100}"

# fmt: off
CUSTOMER_ID = Flag(
    "customer_id", Kind.TEXT, "Your customer id at Google Maps Platform, which the listing is named after.",
    Group.SOURCE, pattern=r"[A-Za-z0-9_-]{1,60}", form="letters, digits, - and _",
    example="1234-5678", in_file=False,
)
DATA_LOCATION = Flag(
    "location", Kind.TEXT, "Where the data is: us, eu or a region. The linked dataset is there too.",
    Group.SOURCE, default="us", pattern=r"[A-Za-z]+(?:-[a-z]+[0-9]+)?", form="us, eu or a region",
    example="eu", in_file=False,
)
HUB_PROJECT = Flag(
    "hub_project", Kind.TEXT, "Project that shares the data.",
    Group.SOURCE, default="maps-platform-analytics-hub", pattern=PROJECT.pattern, form=PROJECT.form,
    example="maps-platform-analytics-hub", in_file=False,
)
EXCHANGE = Flag(
    "exchange", Kind.TEXT, "Data exchange that the listing is in. Without it, imagery_insights_exchange_LOCATION.",
    Group.SOURCE, pattern=_ID, form="letters, digits and _", example="imagery_insights_exchange_us", in_file=False,
)
LISTING = Flag(
    "listing", Kind.TEXT, "The listing, or its whole resource name. Without it, imagery_insights_CUSTOMER__LOCATION.",
    Group.SOURCE, pattern=rf"{_ID}|projects/[^/]+/locations/[^/]+/dataExchanges/{_ID}/listings/{_ID}",
    form="letters, digits and _, or projects/…/locations/…/dataExchanges/…/listings/…",
    example="imagery_insights_1234_5678__us", in_file=False,
)
DATASET = Flag(
    "dataset", Kind.TEXT, "Linked dataset to make in your project. Without it, imagery_insights___preview___LOCATION.",
    Group.RESULTS, pattern=r"[A-Za-z0-9_]{1,1024}", form="letters, digits and _",
    example="imagery_insights___us", in_file=False,
)
LIST = Flag(
    "list", Kind.BOOLEAN, "Show the listings that you can see, and make nothing.",
    Group.RUN, default=False, example="true", in_file=False,
)
DRY_RUN = Flag(
    "dry_run", Kind.BOOLEAN, "Print the request instead of sending it.",
    Group.RUN, default=False, example="true", in_file=False,
)

#: Flags of ``imagebeam subscribe``, in the order of ``--help``.
SUBSCRIBE: Final[tuple[Flag, ...]] = (
    CUSTOMER_ID, DATA_LOCATION, HUB_PROJECT, EXCHANGE, LISTING, PROJECT, DATASET, LIST, DRY_RUN, JSON, CONFIG,
)
# fmt: on
