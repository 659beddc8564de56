"""The one exception a user is meant to read, and what other libraries' mean."""

import re

import click

from qedistill.words import one_line


class UserError(click.ClickException):
    """Bad input, told in one sentence that names what is wrong and the mend; Click prints it and exits with 1."""


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
