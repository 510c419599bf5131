"""The exceptions that imagebeam raises on purpose.

::

    ImagebeamError
    ├── UserError        a person's mistake: one line with what, where and how to mend it; exit code 2
    ├── SystemicError    the run cannot go on: credentials, model gone, API off; exit code 3, nothing is lost
    └── BooksError       the books of a run do not balance; exit code 1

A problem of one image is no exception: it is that unit's outcome, with a status and a reason code.
"""


class ImagebeamError(Exception):
    """Base of every exception that imagebeam raises on purpose."""

    exit_code = 1


class UserError(ImagebeamError):
    """A person's mistake. The message is one line: what is wrong, where, and how to mend it."""

    exit_code = 2


class SystemicError(ImagebeamError):
    """Something that every further call would meet too: the run drains and stops."""

    exit_code = 3


class BooksError(ImagebeamError):
    """Units went missing or were counted twice: the run must not be called a success."""

    exit_code = 1
