"""The one exception a user is meant to read, what other libraries' mean, and a terminal that can show it."""

import io
import re
import sys
from typing import IO, Any

import click

from qedistill.words import one_line


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


def why_unloadable(error: Exception) -> str:
    """Why a model cannot be loaded, with the mend where it is known."""
    said = one_line(error)
    if "trust_remote_code" in said:
        return "it wants to run code of its own, which is not done: take a model that transformers itself knows"
    if re.search(r"no file named \S+\.safetensors|not appear to have a file named \S+\.safetensors", said):
        return (
            "it has no weights as safetensors, and pickled ones are not read, since they can run code: where you trust "
            "them, load and save it once with transformers"
        )
    if not isinstance(error, OSError | ValueError | RuntimeError):
        said = f"{type(error).__name__}: {said}"
    return f"{said[:300]}; get its files again"
