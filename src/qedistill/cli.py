"""`qedistill`: what a user does beside DVC."""

import shutil
from datetime import datetime
from pathlib import Path

import click
import yaml

from qedistill import layout, report
from qedistill.errors import UserError
from qedistill.layout import METRICS
from qedistill.params import Params, load_params
from qedistill.text import atomic, write_jsonl

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
@click.option("--check", is_flag=True, help="Exit with 1 where something is missing.")
@click.option("--gpu", help="Reckon with this GPU, such as A100, in place of what is here.")
def plan(check: bool, gpu: str | None) -> None:
    """Print what a run with params.yaml would download, ask, search and train, and what this machine lacks for it.

    Nothing is fetched and nobody is asked.
    """
    from qedistill.plan import find_device, make_plan
    from qedistill.plan.show import show

    params, raw = load_params(), yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    made = make_plan(params, raw, Path(), layout.ledger(), find_device(gpu))
    show(made)
    if check and made.missing:
        raise click.exceptions.Exit(1)


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


@main.group()
def ledger() -> None:
    """What an API teacher has answered so far: ledger.db in the project, or the file that QEDISTILL_LEDGER names."""


@ledger.command()
def stats() -> None:
    """Print answers, calls, tokens and cost of every model in the ledger.

    The cost is that of teacher.api.prices in params.yaml, for teacher.model alone.
    """
    from qedistill.generation.api import cost
    from qedistill.generation.ledger import Ledger

    teacher = load_params().teacher
    with Ledger(_existing()) as opened:
        models = opened.stats()
    header = ["model", "answers", "calls of no use", "prompt tokens", "cached", "completion tokens", "cost", "last"]
    body = []
    for row in models:
        useless = {kind: count for kind, count in row.calls.items() if kind != "answer"}
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(useless.items()))
        known = teacher.api.prices if row.model == teacher.model else None
        body.append([
            row.model, f"{row.answers:,}", kinds or "–", f"{row.usage.prompt_tokens:,}", f"{row.usage.cached_tokens:,}",
            f"{row.usage.completion_tokens:,}", f"{cost(row.usage, known):.4f}" if known else "–",
            datetime.fromtimestamp(row.last).strftime("%Y-%m-%d %H:%M"),
        ])  # fmt: skip
    report.plain_table(header, body)


@ledger.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def export(folder: Path) -> None:
    """Write the ledger's answers to what params.yaml asks as FOLDER/zero_shot.jsonl and FOLDER/few_shot.jsonl.

    Such a folder serves as teacher.recordings: with teacher.generator recorded the pipeline then runs without the API.
    Needs the stages collection and exemplars.
    """
    from qedistill.generation.ledger import Ledger
    from qedistill.generation.teacher import as_record, read_requests

    with Ledger(_existing()) as opened:
        for style, requests in read_requests(_api_params()).items():
            answers = opened.answers(request.key for request in requests)
            records = [as_record(r, answers[r.key]) for r in requests if r.key in answers]
            if records:  # what stands there is not replaced by nothing
                write_jsonl(folder / f"{style}.jsonl", records)
            click.echo(f"{folder / style}.jsonl: {len(records)} of {len(requests)} answers")


@ledger.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def import_(folder: Path) -> None:
    """Put the answers of FOLDER/zero_shot.jsonl and FOLDER/few_shot.jsonl to what params.yaml asks into the ledger.

    For answers that were got some other way, as by a vendor's batch interface: teacher.model counts as their author. What
    fails the checks, is not asked for or is there already is passed over. Needs the stages collection and exemplars.
    """
    from qedistill.generation.ledger import Ledger
    from qedistill.generation.teacher import from_records, read_requests

    params = _api_params()
    with Ledger(layout.ledger()) as opened:
        for style, requests in read_requests(params).items():
            path = folder / f"{style}.jsonl"
            if not path.exists():
                continue
            answers, useless = from_records(path, requests, params)
            known = opened.answers(request.key for request in requests)
            new = [request for request in requests if request.key in answers.keys() - known.keys()]
            for request in new:
                opened.store(request, answers[request.key])
            click.echo(f"{path}: {len(new)} answers stored, {len(answers) - len(new)} known, {len(useless)} of no use")


def _api_params() -> Params:
    params = load_params()
    if params.teacher.generator != "api":
        raise UserError("teacher.generator must be api: only an API's answers are kept in the ledger")
    return params


def _existing() -> Path:
    path = layout.ledger()
    if not path.exists():
        raise UserError(f"{path}: no ledger yet; the stage teach makes it where teacher.generator is api")
    return path
