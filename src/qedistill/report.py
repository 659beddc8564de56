"""Tables: the results from metrics/ alone, and what else is printed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qedistill.errors import UserError
from qedistill.evaluation import SYSTEMS, Difference
from qedistill.layout import RETRIEVERS, part
from qedistill.text import atomic, read_json

NAMES = {
    "query": "original query",
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
    """test set (`<test>.dense` and `<test>.fused` where there is dense retrieval) → system → its figures, in the order
    of tables.

    Raises:
        UserError: the evaluate stage has not run.
    """
    folder = metrics / "evaluate"
    results = {
        name: {system: read_json(path) for system in SYSTEMS if (path := folder / name / f"{system}.json").exists()}
        for name in (part(test, retriever) for retriever in RETRIEVERS for test in tests)
    }
    if not any(results.values()):
        raise UserError(f"{folder}: no results; run `dvc repro` first")
    return results


def rows(metrics: Path, tests: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results table: a row a system and retriever, for each test set nDCG@10 with its 95 %
    interval, the paired test against the original query, retention and the share of the teacher's gain that is kept, all
    within the retriever; then what an expansion costs."""
    results = read_results(metrics, tests)
    header = ["system", "query ×"]
    for test in tests:
        header += [f"{test} nDCG@10 [95 %]", "p vs query", "of the teacher", "gain kept"]
    header += ["tokens a query"]
    weights = read_json(metrics / "retrieve.json").get("query_weight", {})
    body: list[list[str]] = []
    for retriever, name in ((r, s) for r in RETRIEVERS for s in SYSTEMS):
        figures = [results[part(test, retriever)].get(name) for test in tests]
        if not any(figures):
            continue
        row = [_title(name, retriever), "–" if retriever == "dense" else str(weights.get(name, "–"))]
        for values in figures:
            row += _cells(values)
        cost = metrics / f"expand@{name}.json"
        row.append(f"{read_json(cost)['tokens_per_query']:.0f}" if cost.exists() else "–")
        body.append(row)
    return header, body


def _title(system: str, retriever: str) -> str:
    if retriever == "sparse":
        return NAMES[system] + (" (BM25)" if system == "query" else "")
    return f"{NAMES[system]}, {retriever}"


def _cells(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return ["–", "–", "–", "–"]
    p = figures.get("vs_query", {}).get("p")
    known = f", published {figures['published']:.4f}" if "published" in figures else ""
    return [
        f"{figures['ndcg@10']:.4f}{interval(figures, 'ndcg@10_', '.3f')}{known}",
        "–" if p is None else p_value(p),
        share(figures, "retention"),
        share(figures, "gain_kept"),
    ]


def gains(metrics: Path, tests: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what training gains on each test set: nDCG@10 of SFT and DPO less the original query's, and of
    DPO less SFT's, each with its 95 % interval and p."""
    results = read_results(metrics, tests)
    wanted = {"SFT − query": ("sft", "vs_query"), "DPO − query": ("dpo", "vs_query"), "DPO − SFT": ("dpo", "vs_sft")}
    body = []
    for name, (system, other) in wanted.items():
        found = [results[test].get(system, {}).get(other) for test in tests]
        body.append([name, *(_gain(difference) if difference else "–" for difference in found)])
    return ["gain in nDCG@10 [95 %]", *tests], body


def _gain(difference: dict[str, float]) -> str:
    value, ends = difference["difference"], interval(difference, "", "+.3f")
    return f"{value:+.3f}{ends}, p {p_value(difference['p'])}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value as tables show it."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(figures: Mapping[str, Any], prefix: str, form: str, factor: float = 1) -> str:
    """The 95 % interval `<prefix>low`, `<prefix>high` behind its figure; nothing where there is none.

    Args:
        form: of the ends, each times `factor`.
    """
    low, high = figures.get(f"{prefix}low"), figures.get(f"{prefix}high")
    return "" if low is None or high is None else f" [{factor * low:{form}}, {factor * high:{form}}]"


def share(figures: Mapping[str, float], key: str) -> str:
    """A share as tables show it: in brackets where the queries do not bound it."""
    if key not in figures:
        return "–"
    text = f"{figures[key]:.0%}"
    return text if f"{key}_low" in figures else f"({text})"


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


def differences(first: str, second: str, systems: dict[str, Difference]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of two revisions compared on one test set, a row a system."""
    header = ["system", first, second, "difference [95 %]", "p", "better", "same", "worse"]
    return header, [
        [
            NAMES[system], f"{d.first:.4f}", f"{d.second:.4f}",
            f"{d.difference.value:+.4f}{interval(vars(d.difference), '', '+.4f')}", p_value(d.p),
            str(d.better), str(d.same), str(d.worse),
        ]
        for system, d in systems.items()
    ]  # fmt: skip


def cell(value: Any) -> str:
    """A param as tables show it."""
    return "–" if value is None else str(value)


def amount(value: float | None) -> str:
    """A cost as tables show it: counts whole, all else to two decimals."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def document(doc_id: str, documents: dict[str, dict[str, str]]) -> str:
    """A document in one line: its id, and its title or the first of its text."""
    if doc_id not in documents:
        return f"{doc_id} (not in the collection)"
    found = documents[doc_id]
    # pyapi's titles repeat the id.
    title = "" if found["title"].startswith(doc_id) else found["title"]
    about = " ".join((title or found["text"]).split())
    return f"{doc_id}: {about[:80]}"


def heading(text: str) -> None:
    """Print a line in bold."""
    Console(highlight=False).print(_printable(text), style="bold", soft_wrap=True)


def wide_table(title: str, header: list[str], body: list[list[str]], right: bool = True) -> None:
    """Print a table under a title. A terminal wraps long cells; in a pipe every row is one line, however long."""
    terminal = Console().is_terminal
    console = Console(width=None if terminal else 100_000, highlight=False)
    table = Table(box=box.SIMPLE_HEAD)
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position and right else "left", overflow="fold")
    for row in body:
        table.add_row(*map(_printable, row))
    heading(title)
    console.print(table)


def _printable(text: str) -> Text:
    """Text in which brackets are no markup, and nothing speaks to the terminal."""
    return Text("".join(c if c.isprintable() else " " for c in text))


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
