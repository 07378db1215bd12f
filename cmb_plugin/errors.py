"""Errors that a user can fix: one line that names what is wrong and the remedy."""

from __future__ import annotations

import errno

_RIGHTS = "check the rights of the file and its folder, or choose another folder"
_SPACE = "free space there or choose another folder, then run the command again"
REMEDIES = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "choose a folder that can be written to",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
}
"""What helps against errors of the system that are no bugs."""


class UserError(Exception):
    """Something the user can fix. Commands print it as one line and exit with code 2.

    Args:
        message: what is wrong and where; begins with the file when there is one.
        remedy: what to do about it, as an imperative.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} - {self.remedy}" if self.remedy else self.message


def fixable(error: BaseException) -> UserError | None:
    """What a user is told of an error; None of a bug.

    Missing rights and full disks are the user's, wherever they are met; a missing file may be a bug.
    """
    if isinstance(error, UserError):
        return error
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    file = f"{error.filename}: " if error.filename is not None else ""
    return UserError(f"{file}{error.strerror}", remedy=REMEDIES[error.errno])
