"""The results table, from metrics/ alone."""

import re
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from qedistill.errors import UserError
from qedistill.evaluation import SYSTEMS
from qedistill.text import atomic, read_json

NAMES = {
    "query": "original query (BM25)",
    "rm3": "RM3",
    "rocchio": "Rocchio",
    "base": "student, base",
    "sft": "student, SFT",
    "dpo": "student, SFT + DPO",
    "teacher-zero-shot": "teacher, zero-shot",
    "teacher-few-shot": "teacher, few-shot",
}
MARKS = "<!-- results -->", "<!-- /results -->"


def read_results(metrics: Path, tests: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """test set → system → its figures, in the order of tables.

    Raises:
        UserError: the evaluate stage has not run.
    """
    folder = metrics / "evaluate"
    results = {
        test: {name: read_json(path) for name in SYSTEMS if (path := folder / test / f"{name}.json").exists()}
        for test in tests
    }
    if not any(results.values()):
        raise UserError(f"{folder}: no results; run `dvc repro` first")
    return results


def rows(metrics: Path, tests: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results table: a row a system, for each test set nDCG@10 with its 95 % interval, the
    paired test against the original query, retention and the share of the teacher's gain that is kept; then what an
    expansion costs."""
    results = read_results(metrics, tests)
    header = ["system", "query ×"]
    for test in tests:
        header += [f"{test} nDCG@10 [95 %]", "p vs query", "of the teacher", "gain kept"]
    header += ["tokens a query"]
    weights = read_json(metrics / "retrieve.json").get("query_weight", {})
    body: list[list[str]] = []
    for name in SYSTEMS:
        if not any(name in results[test] for test in tests):
            continue
        row = [NAMES[name], str(weights.get(name, "–"))]
        for test in tests:
            row += _cells(results[test].get(name))
        cost = metrics / f"expand@{name}.json"
        row.append(f"{read_json(cost)['tokens_per_query']:.0f}" if cost.exists() else "–")
        body.append(row)
    return header, body


def _cells(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return ["–", "–", "–", "–"]
    p = figures.get("vs_query", {}).get("p")
    retention, gain = figures.get("retention"), figures.get("gain_kept")
    known = f", published {figures['published']:.4f}" if "published" in figures else ""
    return [
        f"{figures['ndcg@10']:.4f} [{figures['ndcg@10_low']:.3f}, {figures['ndcg@10_high']:.3f}]{known}",
        "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
        "–" if retention is None else f"{retention:.0%}",
        "–" if gain is None else f"{gain:.0%}",
    ]


def to_markdown(header: list[str], body: list[list[str]]) -> str:
    """A GitHub table; figures right-aligned."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(header: list[str], body: list[list[str]]) -> None:
    """Print the results for a terminal of 80 columns: a table for each test set."""
    # Where output goes to a file there is no width to fit.
    terminal = Console().is_terminal
    console = Console(width=None if terminal else 100)
    for first in range(2, len(header) - 1, 4):
        test = header[first].split()[0]
        table = Table(
            title=f"{test}: nDCG@10 [95 %], p against the query, share of teacher and of its gain",
            box=box.SIMPLE,
            title_justify="left",
        )
        for name in ("system", "nDCG@10", "p", "share", "gain", "tokens", "×"):
            table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
        for row in body:
            table.add_row(row[0], *row[first : first + 4], row[-1], row[1])
        console.print(table)


def plain_table(header: list[str], body: list[list[str]]) -> None:
    """Print a table as it is, the first column to the left and the others to the right."""
    console = Console()
    table = Table(box=box.SIMPLE)
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position else "left")
    for row in body:
        table.add_row(*row)
    # Where output goes to a file there is no width to fit.
    console.print(table, width=None if console.is_terminal else 160)


def insert(readme: Path, text: str) -> None:
    """Put text between the results marks of a file, atomically.

    Raises:
        UserError: the file lacks the marks.
    """
    start, end = MARKS
    old = readme.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(old):
        raise UserError(f"{readme}: no {start} … {end} to put the table between")
    with atomic(readme) as target:
        target.write_text(pattern.sub(lambda _: f"{start}\n{text}\n{end}", old), encoding="utf-8")
