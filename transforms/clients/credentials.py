"""Find Google credentials in the environment, without prompts or a browser."""

from __future__ import annotations

from typing import Any, Final

import google.auth
import google.auth.exceptions

from imagebeam.transforms.core.errors import UserError, first_line

#: Scope of every token; IAM roles decide what the account may do.
SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)


def find_credentials() -> Any:
    """Return the application default credentials.

    Raises:
        UserError: No credentials are found, or they are invalid.
    """
    try:
        return google.auth.default(scopes=SCOPES)[0]
    except google.auth.exceptions.GoogleAuthError as error:
        raise missing_credentials(error) from None


def missing_credentials(error: google.auth.exceptions.GoogleAuthError) -> UserError:
    """Return the error for missing credentials."""
    return UserError(
        f"no Google credentials ({first_line(error, 120)})",
        fix="run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file, or try "
        "imagebeam without an account: `imagebeam local up`",
    )
