"""The near name: what a person probably meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, if one is.

    >>> nearest("sampel_percent", ["limit", "sample_percent"])
    'sample_percent'
    >>> nearest("xyz", ["limit", "sample_percent"]) is None
    True
    """
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """The end of a message about an unknown name: empty when nothing is near.

    >>> did_you_mean("lmit", ["limit"], prefix="--")
    '; did you mean --limit?'
    """
    near = nearest(name, known)
    return f"; did you mean {prefix}{near}?" if near else ""
