"""The one exception a user is meant to read."""

import click


class UserError(click.ClickException):
    """Bad input, told in one sentence that names what is wrong and the mend; Click prints it and exits with 1."""
