"""The figures of arXiv 2603.13776 beside those of the last run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedistill.layout import part
from qedistill.measures import NDCG
from qedistill.params import Params
from qedistill.report import interval
from qedistill.text import read_json

BGE = "BAAI/bge-base-en-v1.5"
COLUMNS = {"original query": "query", "SFT": "sft", "SFT + DPO": "dpo", "teacher, few-shot": "teacher-few-shot"}
HEADER = ["test set", "retriever", "BM25, published", "the paper", *(f"yours, {name}" for name in COLUMNS)]
OPEN = ""  # a cell that waits for a run


@dataclass(frozen=True)
class Row:
    """A test set by its ir_datasets id, the dense encoder it is searched with (None: BM25) and, in nDCG@10 × 100, what
    pyserini publishes for BM25 and what the paper reports for its distilled Qwen3-4B."""

    title: str
    dataset: str
    encoder: str | None
    bm25: float | None
    paper: float


ROWS = (
    Row("TREC DL 2019", "msmarco-passage/trec-dl-2019/judged", None, 50.58, 65.36),
    Row("TREC DL 2020", "msmarco-passage/trec-dl-2020/judged", None, 47.96, 59.21),
    Row("TREC DL 2021", "msmarco-passage-v2/trec-dl-2021/judged", None, 44.58, 56.33),
    Row("MIRACL-zh", "miracl/zh/dev", None, 18.01, 33.66),
    Row("TREC DL 2019", "msmarco-passage/trec-dl-2019/judged", BGE, None, 72.26),
    Row("TREC DL 2020", "msmarco-passage/trec-dl-2020/judged", BGE, None, 70.57),
)


def rows(metrics: Path, params: Params, page: str = "") -> list[list[str]]:
    """A line for each of ROWS under HEADER, nDCG@10 × 100 with its 95 % interval.

    Args:
        page: Markdown that may hold an earlier table; its cells stay where the last run has no figure, for a profile
            has one part of the test sets, and the other profile's run came before.
    """
    earlier = {tuple(cells[:2]): cells[4:] for line in page.splitlines() if (cells := _cells(line))}
    return [_row(row, metrics, params, earlier) for row in ROWS]


def _row(row: Row, metrics: Path, params: Params, earlier: dict[tuple[str, ...], list[str]]) -> list[str]:
    key = (row.title, "BM25" if row.encoder is None else row.encoder.split("/")[1])
    old = earlier.get(key, [OPEN] * len(COLUMNS))
    found = [_figures(row, system, metrics, params) for system in COLUMNS.values()]
    ours = [OPEN] * len(COLUMNS) if any(found) else old
    return [
        *key,
        OPEN if row.bm25 is None else f"{row.bm25:.2f}",
        f"{row.paper:.2f}",
        *(_percent(figures) if figures else cell for figures, cell in zip(found, ours, strict=True)),
    ]


def _figures(row: Row, system: str, metrics: Path, params: Params) -> dict[str, Any] | None:
    if row.encoder not in (None, params.dense.encoder):
        return None
    retriever = "sparse" if row.encoder is None else "dense"
    named = [name for name, dataset in params.collection.tests.items() if dataset == row.dataset]
    files = [metrics / "evaluate" / part(name, retriever) / f"{system}.json" for name in named]
    return next((read_json(file) for file in files if file.exists()), None)


def _percent(figures: dict[str, Any]) -> str:
    return f"{100 * figures[NDCG]:.2f}{interval(figures, f'{NDCG}_', '.1f', 100)}"


def _cells(line: str) -> list[str]:
    """The cells of a line of our table; none of any other line."""
    cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
    return cells if line.startswith("|") and len(cells) == len(HEADER) else []
