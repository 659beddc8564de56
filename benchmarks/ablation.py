"""Run the grid of DVC experiments behind docs/ablation.md, and put its table there.

Each row is `dvc exp run --temp` on the last commit with a few params changed; a row whose experiment is there already is
not run again (`dvc exp remove NAME` forgets it, for when the code has changed). Rows are compared on validation; the test sets choose nothing.
"""

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from qedistill.params import load_params
from qedistill.report import insert, to_markdown
from qedistill.text import flatten, read_yaml, write_json

PAGE = Path("docs/ablation.md")
BOTH, DPO = ("sft", "dpo"), ("dpo",)


@dataclass(frozen=True)
class Row:
    """An experiment: its name, what it tries, the params it sets and the students it is about."""

    name: str
    title: str
    params: dict[str, Any] = field(default_factory=dict)
    students: tuple[str, ...] = DPO


def changes(profile: str) -> dict[str, Any]:
    """How a profile differs from the default."""
    whole, default = (flatten(read_yaml(f"profiles/{name}.yaml")) for name in (profile, "pyapi"))
    return {key: value for key, value in whole.items() if value != default[key]}


DEFAULT = Row("HEAD", "default", students=("base", *BOTH))
SEEDS = (Row("seed-43", "seed 43", {"seed": 43}, BOTH), Row("seed-44", "seed 44", {"seed": 44}, BOTH))
GRID = (
    Row("plain", "DPO without the likelihood term (the paper)", {"dpo.sft_weight": 0.0}),
    Row("teacher-pairs", "pairs of the teacher's answers only (the paper)", {"pairs.candidates": "teacher"}),
    Row("both-pairs", "pairs of the teacher's and the student's", {"pairs.candidates": "both"}),
    Row("beta-0.5", "DPO beta 0.5", {"dpo.beta": 0.5}),
    Row("dpo-2", "DPO 2 epochs", {"dpo.epochs": 2}),
    Row("greedy", "1 sample, greedy", {"generation.samples": 1, "generation.temperature": 0.0}, BOTH),
    Row("samples-4", "4 samples", {"generation.samples": 4}, BOTH),
    Row("weight-1", "query once", {"retrieval.query_weight": 1}, BOTH),
    Row("fuse", "8 samples fused by reciprocal rank", {"retrieval.combine": "fuse"}, BOTH),
    Row("sft-3", "SFT 3 epochs", {"sft.epochs": 3}, BOTH),
    Row("pyapi-full", "the profile pyapi-full", changes("pyapi-full"), ("base", *BOTH)),
    Row("pyapi-full-1", "pyapi-full, query once", changes("pyapi-full") | {"retrieval.query_weight": 1}, BOTH),
)


@click.command(help=__doc__)
@click.option("--only", multiple=True, help="Only the experiment of this name; may be repeated.")
@click.option("--table", is_flag=True, help="Run nothing; make the table of the experiments there are.")
def main(only: tuple[str, ...], table: bool) -> None:
    done = finished()
    for row in (*SEEDS, *GRID):
        if table or row.name in done or (only and row.name not in only):
            continue
        settings = [part for key, value in row.params.items() for part in ("-S", f"{key}={value}")]
        click.echo(f"{row.title}: {row.params}")
        # No further than evaluate: costs and the report are not in the table.
        subprocess.run(["dvc", "exp", "run", "--temp", "--name", row.name, *settings, "evaluate"], check=True)
    done = finished()
    tests = list(load_params().collection.tests)
    body = [line for row in (DEFAULT, *SEEDS, *GRID) if row.name in done for line in lines(row, done[row.name], tests)]
    body += [mean(student, [done[row.name] for row in (DEFAULT, *SEEDS)], tests) for student in BOTH
             if all(row.name in done for row in SEEDS)]  # fmt: skip
    header = ["experiment", "student", "query ×", "validation"]
    for test in tests:
        header += [f"{test} [95 %]", "p vs query", "− SFT (p)", "gain kept"]
    insert(PAGE, to_markdown([*header, "tokens a query", "minutes"], body))
    keep(PAGE, {row.name: done[row.name] for row in (DEFAULT, *SEEDS, *GRID) if row.name in done})


def keep(page: Path, experiments: dict[str, dict[str, Any]]) -> None:
    """Put the evaluation figures behind a page beside it, as JSON: git does not hand on DVC's experiments."""
    write_json(
        page.with_suffix(".json"),
        {
            name: {file: values for file, values in metrics.items() if file.startswith("metrics/evaluate/")}
            for name, metrics in experiments.items()
        },
    )


def finished() -> dict[str, dict[str, Any]]:
    """Experiment → its metrics, {file: figures}; the last commit as HEAD."""
    shown = subprocess.run(
        ["dvc", "exp", "show", "-A", "--json", "--no-pager"], check=True, capture_output=True, text=True
    )
    commits = [entry for entry in json.loads(shown.stdout) if entry["rev"] != "workspace"]
    # Of all commits: one that changes no result does not make an experiment anew.
    experiments = [experiment for commit in reversed(commits) for experiment in commit.get("experiments") or []]
    # One under way, or killed, is shown too, with the figures of the commit it started from.
    over = [e for e in experiments if (e.get("executor") or {}).get("state") in (None, "success")]
    revisions = {e["name"]: e["revs"][-1]["rev"] for e in over if e["revs"][-1]["data"]}
    return {name: metrics_of(revision) for name, revision in (revisions | {"HEAD": "HEAD"}).items()}


def metrics_of(revision: str) -> dict[str, Any]:
    """File → figures, as git holds them at a revision."""
    archive = subprocess.run(["git", "archive", revision, "metrics"], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {
            member.name: json.load(content)
            for member in files
            if member.name.endswith(".json") and (content := files.extractfile(member))
        }


def lines(row: Row, metrics: dict[str, Any], tests: list[str]) -> list[list[str]]:
    """A line a student of the experiment."""
    return [
        [
            row.title,
            student,
            str(metrics["metrics/retrieve.json"]["query_weight"][student]),
            f"{figures(metrics, 'validation', student)['ndcg@10']:.4f}",
            *(cell for test in tests for cell in cells(figures(metrics, test, student))),
            f"{metrics[f'metrics/expand@{student}.json']['tokens_per_query']:.0f}",
            f"{minutes(metrics, student):.1f}",
        ]
        for student in row.students
    ]


def figures(metrics: dict[str, Any], split: str, student: str) -> dict[str, Any]:
    found: dict[str, Any] = metrics[f"metrics/evaluate/{split}/{student}.json"]
    return found


def cells(values: dict[str, Any]) -> list[str]:
    more = values.get("vs_sft")
    return [
        f"{values['ndcg@10']:.4f} [{values['ndcg@10_low']:.3f}, {values['ndcg@10_high']:.3f}]",
        p_value(values["vs_query"]["p"]),
        f"{more['difference']:+.4f} ({p_value(more['p'])})" if more else "–",
        f"{values['gain_kept']:.0%}",
    ]


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def minutes(metrics: dict[str, Any], student: str) -> float:
    """Of training steps, and of sampling candidates, up to a student."""
    needed = {"base": (), "sft": ("sft",), "dpo": ("sft", "sample", "dpo")}[student]
    return sum(metrics[f"metrics/{stage}.json"].get("seconds", 0.0) for stage in needed) / 60


def mean(student: str, runs: list[dict[str, Any]], tests: list[str]) -> list[str]:
    """The mean of the seeds, ± their standard deviation."""

    def over(split: str, key: str, form: str) -> str:
        values = [figures(metrics, split, student)[key] for metrics in runs]
        return f"{np.mean(values):{form}} ± {np.std(values, ddof=1):{form}}"

    more = {test: "–" for test in tests}
    if student == "dpo":
        for test in tests:
            values = [figures(metrics, test, student)["vs_sft"]["difference"] for metrics in runs]
            more[test] = f"{np.mean(values):+.4f} ± {np.std(values, ddof=1):.4f}"
    cells = [
        cell for test in tests
        for cell in (over(test, "ndcg@10", ".4f"), "–", more[test], over(test, "gain_kept", ".0%"))
    ]  # fmt: skip
    return ["mean of 3 seeds", student, "–", over("validation", "ndcg@10", ".4f"), *cells, "–", "–"]


if __name__ == "__main__":
    main()
