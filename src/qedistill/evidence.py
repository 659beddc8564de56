"""What the systems did with single queries: rankings, nDCG@10, expansions, documents; read from the stages' outputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qedistill import measures, text
from qedistill.evaluation import STUDENTS, SYSTEMS, TEACHERS
from qedistill.layout import EXPANSIONS, RUNS, TEACHER, qrels, queries
from qedistill.text import Qrels, Queries, Run, read_qrels, read_queries, read_run

TOP = 10


@dataclass(frozen=True)
class TestSet:
    """A split, searched in one way: the folder runs/<name>.

    `ranks` is system → query id → document → rank from 1, in trec_eval's order; `ndcg` system → query id → nDCG@10.
    """

    __test__ = False  # no test case, whatever pytest makes of the name

    name: str
    queries: Queries
    qrels: Qrels
    ranks: dict[str, dict[str, dict[str, int]]]
    ndcg: dict[str, dict[str, float]]

    def top(self, system: str, query_id: str) -> list[str]:
        """The first ten documents, best first."""
        return list(self.ranks[system].get(query_id, {}))[:TOP]


def run_folders(splits: Iterable[str], runs: Path = RUNS) -> dict[str, str]:
    """Folder of runs → its split; `<split>.<way>` is the split searched in another way."""
    found = sorted(path.name for path in runs.glob("*") if path.is_dir())
    return {name: split for split in splits for name in found if name == split or name.startswith(f"{split}.")}


def read_runs(folder: Path) -> dict[str, Run]:
    """system → run, in the order of tables."""
    return {system: read_run(path) for system in SYSTEMS if (path := folder / f"{system}.trec").exists()}


def read_test_set(name: str, split: str) -> TestSet:
    """The runs of a folder of runs/, and what was judged."""
    judged = read_qrels(qrels(split))
    ranked = {system: measures.rank(run) for system, run in read_runs(RUNS / name).items()}
    # nDCG@10 looks at ten; a thousand take a hundred times as long.
    first = {
        system: {i: dict(list(scores.items())[:TOP]) for i, scores in run.items()} for system, run in ranked.items()
    }
    ndcg = {system: measures.score(judged, run, (measures.NDCG,))[measures.NDCG] for system, run in first.items()}
    return TestSet(
        name,
        {i: query for i, query in read_queries(queries(split)).items() if i in judged},
        judged,
        {
            system: {i: {doc_id: int(-score) for doc_id, score in scores.items()} for i, scores in run.items()}
            for system, run in ranked.items()
        },
        {system: dict(zip(sorted(judged), values.tolist(), strict=True)) for system, values in ndcg.items()},
    )


def read_expansions() -> dict[str, dict[str, list[str]]]:
    """system → query id → the samples that were searched with; of a teacher the first alone."""
    sources = {model: EXPANSIONS / f"{model}.jsonl" for model in STUDENTS}
    sources |= {system: TEACHER / f"{style}.jsonl" for style, system in TEACHERS.items()}
    return {
        system: text.read_expansions(path, None if system in STUDENTS else 1)
        for system, path in sources.items()
        if path.exists()
    }
