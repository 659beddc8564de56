"""The one exception a user is meant to read, and a terminal that can show it."""

import io
import sys
from typing import IO, Any

import click


class UserError(click.ClickException):
    """Bad input, told in one sentence that names what is wrong and the mend; Click prints it and exits with 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it, as Click does."""
        show_all_letters()
        super().show(file)


def show_all_letters() -> None:
    """Print as escapes (`\\\\u9e1f`) what the terminal's encoding lacks, where Python would stop with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def in_one_sentence(error: OSError) -> UserError | None:
    """What the operating system refused (no room, no permission, no such file), as an error to read; None for others.

    Libraries raise errors of the same class without a number; these are no plain refusals and keep their traceback.
    """
    if error.errno is None or not error.strerror or isinstance(error, BrokenPipeError):
        return None
    return UserError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
