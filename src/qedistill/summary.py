"""The dozen figures by which experiments are compared, and the scores of every query."""

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qedistill import measures
from qedistill.text import Qrels, Run, open_text, read_json

DEPTH = 100  # documents a query in the runs put into MLflow


def headline(metrics: Path, parts: list[str]) -> dict[str, float]:
    """What `dvc exp show` and MLflow's table of runs show, in plain words; what has not been run is left out.

    Args:
        metrics: folder of the stages' figures.
        parts: test sets, as metrics/evaluate names them.
    """
    wanted = {
        "nDCG@10 of DPO on validation": ("evaluate/validation/dpo", "ndcg@10"),
        **{
            f"{name} {part}": (f"evaluate/{part}/{system}", key)
            for part in parts
            for name, system, key in (
                ("nDCG@10 of DPO on", "dpo", "ndcg@10"),
                ("nDCG@10 of SFT on", "sft", "ndcg@10"),
                ("teacher gain kept by DPO on", "dpo", "gain_kept"),
                ("p of DPO against the query on", "dpo", "vs_query.p"),
            )
        },
        "validation loss of SFT": ("sft", "eval_loss"),
        "reward margin of DPO": ("dpo", "reward_margin"),
        "tokens a query of DPO": ("expand@dpo", "tokens_per_query"),
        "median seconds a query of DPO": ("cost@dpo", "latency_p50_seconds"),
    }
    found = {name: _figure(metrics / f"{file}.json", key) for name, (file, key) in wanted.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def _figure(path: Path, key: str) -> float | None:
    tree: Any = read_json(path) if path.exists() else {}
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def query_rows(qrels: Qrels, runs: Mapping[str, Run], split: str) -> list[dict[str, Any]]:
    """A row a judged query: query_id, split and each system's nDCG@10; where there are both `query` and `dpo`, their
    `difference` and the query's `rank` by it, from 1 (most lost)."""
    scores = {system: measures.score(qrels, run, (measures.NDCG,))[measures.NDCG] for system, run in runs.items()}
    rows: list[dict[str, Any]] = [
        {"query_id": query_id, "split": split} | {system: float(values[i]) for system, values in scores.items()}
        for i, query_id in enumerate(sorted(qrels))
    ]
    if {"query", "dpo"} <= scores.keys():
        for row in rows:
            row["difference"] = row["dpo"] - row["query"]
        for rank, row in enumerate(sorted(rows, key=lambda row: (row["difference"], row["query_id"])), 1):
            row["rank"] = rank
    return rows


@contextmanager
def heads_of(runs: Path) -> Iterator[Path]:
    """A temporary archive of the first 100 documents of each query in every run, `part/system.trec`."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / f"runs-top-{DEPTH}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for path in sorted(runs.rglob("*.trec")):
                with open_text(path) as file:
                    head = "".join(line for line in file if int(line.split()[3]) <= DEPTH)
                target.writestr(path.relative_to(runs).as_posix(), head)
        yield archive
