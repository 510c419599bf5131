"""Google credentials: found without asking anybody and without a browser."""

from __future__ import annotations

from typing import Any, Final

import google.auth
import google.auth.exceptions

from imagebeam.transforms.core.errors import UserError, first_line

#: What every token is good for; roles decide what the account may do.
SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)


def find_credentials() -> Any:
    """The credentials of the environment.

    Raises:
        UserError: There are none, or they are not good.
    """
    try:
        return google.auth.default(scopes=SCOPES)[0]
    except google.auth.exceptions.GoogleAuthError as error:
        raise no_credentials(error) from None


def no_credentials(error: google.auth.exceptions.GoogleAuthError) -> UserError:
    """What to say when there are none."""
    return UserError(
        f"no Google credentials ({first_line(error, 120)})",
        fix="run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file, or try "
        "it without an account: `imagebeam local up`",
    )
