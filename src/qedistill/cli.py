"""`qedistill`: what a user does beside DVC."""

import shutil
from pathlib import Path

import click

from qedistill import report
from qedistill.errors import UserError
from qedistill.layout import METRICS
from qedistill.params import load_params
from qedistill.text import atomic

PROFILES = Path("profiles")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Distil an LLM's query expansion into a small model. The pipeline itself runs by `dvc repro`."""


@main.command()
@click.argument("profile")
def use(profile: str) -> None:
    """Put PROFILE, one of profiles/*.yaml, in place of params.yaml.

    What params.yaml held is overwritten: keep settings of your own as a profile.
    """
    source = PROFILES / f"{profile}.yaml"
    if not source.exists():
        known = ", ".join(sorted(path.stem for path in PROFILES.glob("*.yaml"))) or "none here: run it in the project"
        raise UserError(f"no profile {profile!r}; there are: {known}")
    load_params(source)
    with atomic("params.yaml") as target:
        shutil.copyfile(source, target)
    click.echo(f"params.yaml is now {source}; `dvc repro` runs what that changes")


@main.command()
@click.option(
    "--write", type=click.Path(dir_okay=False, path_type=Path), help="Put it into this Markdown file instead."
)
def table(write: Path | None) -> None:
    """Print the results table of the last `dvc repro`."""
    tests = list(load_params().collection.tests)
    header, body = report.rows(METRICS, tests)
    if write:
        report.insert(write, report.to_markdown(header, body))
    else:
        report.show(header, body)
