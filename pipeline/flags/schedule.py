"""The flags of ``imagebeam schedule`` that are not those of the run."""

from typing import Final

from imagebeam.pipeline.dataflow.template_command import TEMPLATE
from imagebeam.pipeline.flags.classify import Flag, Group, Kind

_CRON: Final = r"(?:[0-9A-Za-z*/,-]+ ){4}[0-9A-Za-z*/,-]+"

# fmt: off
SCHEDULE = Flag(
    "schedule", Kind.TEXT, "When, as cron writes it: minute, hour, day of month, month, day of week.",
    Group.RUN, default="0 3 * * *", pattern=_CRON, form="five fields such as '0 3 * * *'",
    example="30 2 * * MON-FRI", in_file=False,
)
COLLECT_SCHEDULE = Flag(
    "collect_schedule", Kind.TEXT, "When the jobs of open batch runs are looked at.",
    Group.RUN, default="*/15 * * * *", pattern=_CRON, form="five fields such as '*/15 * * * *'",
    example="0 * * * *", in_file=False,
)
TIME_ZONE = Flag(
    "time_zone", Kind.TEXT, "Time zone of the schedule.",
    Group.RUN, default="Etc/UTC", pattern=r"[A-Za-z]+(?:/[A-Za-z0-9_+-]+)*", form="a name such as Europe/Zurich",
    example="Europe/Zurich", in_file=False,
)
NAME = Flag(
    "name", Kind.TEXT, "Name of what is made. Without it, imagebeam- and the task.",
    Group.RUN, pattern=r"[a-z](?:[-a-z0-9]{0,38}[a-z0-9])?",
    form="at most 40 lower-case letters, digits and -, beginning with a letter",
    example="poles-nightly", in_file=False,
)
SCHEDULER_ACCOUNT = Flag(
    "scheduler_account", Kind.TEXT, "Account that the schedule acts as. Without it, one is made: imagebeam-scheduler.",
    Group.RUN, pattern=r"[^@\s]+@[^@\s]+\.[a-z]+",
    form="an account such as scheduler@my-project.iam.gserviceaccount.com",
    example="scheduler@my-project.iam.gserviceaccount.com", in_file=False,
)
SCHEDULER_LOCATION = Flag(
    "scheduler_location", Kind.TEXT, "Region of Cloud Scheduler, which not every region has. Without it, --region.",
    Group.RUN, pattern=r"[a-z]+-[a-z]+[0-9]+", form="a region such as europe-west1",
    example="europe-west1", in_file=False,
)
RUN_IMAGE = Flag(
    "image", Kind.TEXT, "The image that imagebeam template build made.",
    Group.RUN, example="europe-west6-docker.pkg.dev/my-project/images/imagebeam:0.1.0", in_file=False,
)
# fmt: on

_ALWAYS: Final = (SCHEDULE, TIME_ZONE, NAME, SCHEDULER_ACCOUNT, SCHEDULER_LOCATION)
#: Flags of each command, beside those of the run.
DAILY: Final[tuple[Flag, ...]] = (TEMPLATE, *_ALWAYS)
BATCH: Final[tuple[Flag, ...]] = (RUN_IMAGE, *_ALWAYS, COLLECT_SCHEDULE)
VM: Final[tuple[Flag, ...]] = (RUN_IMAGE, *_ALWAYS)
