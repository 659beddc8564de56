"""`qedistill`: what a user does beside DVC."""

import shutil
from datetime import datetime
from pathlib import Path

import click

from qedistill import layout, report
from qedistill.errors import UserError, show_all_letters
from qedistill.layout import METRICS, PROFILES
from qedistill.params import Params, load_params
from qedistill.text import Queries, atomic, read_qrels, read_queries, read_yaml, write_jsonl


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Distil an LLM's query expansion into a small model. The pipeline itself runs by `dvc repro`."""
    show_all_letters()


@main.command()
@click.argument("profile")
def use(profile: str) -> None:
    """Put PROFILE, one of profiles/*.yaml, in place of params.yaml.

    What params.yaml held is overwritten: keep settings of your own as a profile.
    """
    source = PROFILES / f"{profile}.yaml"
    if not source.exists():
        known = ", ".join(path.stem for path in layout.profiles()) or "none here: run it in the project"
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

    params, raw = load_params(), read_yaml("params.yaml")
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
        tables = report.to_markdown(header, body), report.to_markdown(*report.gains(METRICS, tests))
        report.insert(write, "\n\n".join(tables))
    else:
        report.show(header, body)


@main.command()
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put it into this Markdown file instead.",
)
def paper(write: Path | None) -> None:
    """Print the paper's nDCG@10 on its test sets, and that of the last `dvc repro` where it ran on them.

    In a file, test sets that the last run does not have keep the figures of an earlier one.
    """
    from qedistill.paper import HEADER, rows

    body = rows(METRICS, load_params(), write.read_text(encoding="utf-8") if write else "")
    if write:
        report.insert(write, report.to_markdown(HEADER, body))
    else:
        report.wide_table("nDCG@10 × 100 [95 %]", HEADER, body)


@main.command()
@click.argument("first")
@click.argument("second", default="workspace")
def compare(first: str, second: str) -> None:
    """Compare two DVC experiments or commits, or one with the workspace, system by system.

    Differences are SECOND less FIRST, in nDCG@10, with the paired test and the interval of the evaluate stage, computed
    from the stored runs by the params of the project as it is here. Only test sets judged alike in both are compared.
    """
    from qedistill.comparison import changed, read_revision
    from qedistill.comparison import compare as compare_runs

    params = load_params()
    before, after = read_revision(first), read_revision(second)
    found = compare_runs(before, after, params.evaluation, params.seed)
    for test in before.runs.keys() | after.runs.keys():
        if test not in found:
            click.echo(f"{test}: not compared, for it is missing or judged differently in one of the two", err=True)
    for test, systems in found.items():
        report.wide_table(f"{test}: nDCG@10", *report.differences(first, second, systems))
    params_differ = changed(before.params, after.params)
    rows = [[key, report.cell(a), report.cell(b)] for key, (a, b) in params_differ.items()]
    report.wide_table("Params that differ", ["", first, second], rows or [["none", "", ""]])
    spent = {key: (before.costs.get(key), after.costs.get(key)) for key in {**before.costs, **after.costs}}
    rows = [[key, report.amount(a), report.amount(b)] for key, (a, b) in spent.items()]
    report.wide_table("Training cost", ["", first, second], rows)


@main.command()
@click.argument("query_id")
def show(query_id: str) -> None:
    """Show one query: judgments, what each system wrote, what it found and how good that is."""
    from qedistill.evidence import read_expansions, read_test_set, run_folders
    from qedistill.retrieval import find_documents

    params = load_params()
    tests = params.collection.tests
    splits = [split for split in (*tests, "validation", "train") if query_id in _queries(split)]
    if not splits:
        raise UserError(f"no query {query_id!r} in {layout.queries('*')}; `dvc repro collection` writes them")
    expansions = {system: by_query[query_id] for system, by_query in read_expansions().items() if query_id in by_query}
    for split in splits:
        test_sets = [read_test_set(name, split) for name in run_folders([split])]
        grades = read_qrels(layout.qrels(split)).get(query_id, {})
        relevant = {doc_id: grade for doc_id, grade in sorted(grades.items(), key=lambda item: -item[1]) if grade > 0}
        found = {doc_id for test in test_sets for system in test.ranks for doc_id in test.top(system, query_id)}
        documents = find_documents(params, split, {*relevant, *found})
        report.heading(f"{query_id} ({split}): {_queries(split)[query_id]}")
        report.wide_table(
            f"Judged relevant; {len(grades) - len(relevant)} more are judged not relevant", ["document", "grade"],
            [[report.document(doc_id, documents), str(grade)] for doc_id, grade in relevant.items()],
        )  # fmt: skip
        report.wide_table(
            "Expansions", ["system", "expansion"],
            [[report.NAMES[system], text] for system, samples in expansions.items() for text in samples], right=False,
        )  # fmt: skip
        for test in test_sets:
            for system, scores in test.ndcg.items():
                top = test.top(system, query_id)
                report.wide_table(
                    f"{test.name}, {report.NAMES[system]}: nDCG@10 {scores[query_id]:.4f}", ["document", "grade"],
                    [[report.document(doc_id, documents), str(grades.get(doc_id, "not judged"))] for doc_id in top],
                )  # fmt: skip


@main.command()
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="docs/pictures", show_default=True)
def pictures(folder: Path) -> None:
    """Draw README's pictures of the last `dvc repro`, from metrics/ alone."""
    from qedistill.html import charts

    for name, figures in report.read_results(METRICS, list(load_params().collection.tests)).items():
        if not figures:
            continue
        path = folder / f"{name}.svg"
        charts.write(charts.systems(name, figures), path)
        click.echo(str(path))


@main.command()
def ui() -> None:
    """Browse the experiments in mlflow.db at http://127.0.0.1:5000, until Ctrl-C."""
    from qedistill.store import serve

    serve(Path.cwd())


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
    from qedistill.tally import Tally

    params, told = _api_params(), Tally()
    with Ledger(layout.ledger()) as opened:
        for style, requests in read_requests(params).items():
            path = folder / f"{style}.jsonl"
            if not path.exists():
                continue
            answers, useless = from_records(path, requests, params, told)
            known = opened.answers(request.key for request in requests)
            new = [request for request in requests if request.key in answers.keys() - known.keys()]
            for request in new:
                opened.store(request, answers[request.key])
            click.echo(f"{path}: {len(new)} answers stored, {len(answers) - len(new)} known, {len(useless)} of no use")
    told.tell()


def _queries(split: str) -> Queries:
    path = layout.queries(split)
    return read_queries(path) if path.exists() else {}


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
