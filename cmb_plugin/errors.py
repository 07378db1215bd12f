"""Errors that a user can fix: one line that names what is wrong and the remedy."""

from __future__ import annotations


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
