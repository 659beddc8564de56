"""Scoring candidates against pyserini's raw `LuceneSearcher.batch_search`, and against one search at a time.

Needs the index and teacher's answers of `dvc repro`.
"""

import os
import time
from collections.abc import Callable

import click

from qedistill.feedback import score_candidates
from qedistill.layout import INDEX, TEACHER, qrels, queries
from qedistill.params import load_params
from qedistill.prompts import STYLES
from qedistill.retrieval import Searcher, combine
from qedistill.text import Run, read_jsonl, read_qrels, read_queries


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="Of each way, in turn; the quickest counts.")
def main(rounds: int) -> None:
    params = load_params()
    texts, judged = read_queries(queries("train")), read_qrels(qrels("train"))
    answers = [r for style in STYLES for r in read_jsonl(TEACHER / f"{style}.jsonl") if r["query_id"] in texts]
    searches = {str(n): combine(texts[a["query_id"]], a["text"], 1) for n, a in enumerate(answers)}
    searcher = Searcher(INDEX, params.collection.language, params.retrieval.bm25)
    os.environ.setdefault("OPENAI_API_KEY", "unused")  # pyserini's import builds a client that wants one
    from pyserini.search.lucene import LuceneSearcher  # after Searcher: it needs the JVM that Searcher started

    raw = LuceneSearcher(str(INDEX))
    raw.set_bm25(params.retrieval.bm25.k1, params.retrieval.bm25.b)
    baseline: Run = {i: {} for i in texts}
    ways: dict[str, Callable[[], object]] = {
        "search, ours": lambda: searcher.search(searches, 10),
        "search and nDCG@10, ours": lambda: score_candidates(answers, searcher.search(searches, 10), baseline, judged),
        "pyserini's batch_search": lambda: raw.batch_search(list(searches.values()), list(searches), k=10, threads=2),
        "one search at a time": lambda: [raw.search(text, k=10) for text in searches.values()],
    }
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):  # the first warms up Java, Numba and the disk's cache
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    for name, spent in seconds.items():
        print(f"{name}: {len(searches) / spent:.0f} candidates/s")
    for name in list(ways)[2:]:
        for ours in list(ways)[:2]:
            print(f"ratio of {ours} to {name}: {seconds[name] / seconds[ours]:.2f}")


if __name__ == "__main__":
    main()
