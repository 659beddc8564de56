"""Score the candidate expansions of the training queries, the teacher's and the student's own, by nDCG@10, in one batched search: data/feedback.jsonl.

Reads params `feedback.query_weight`, `dpo.evaluations` (above 0: of the validation queries too), `student.max_words`, `retrieval.bm25`, `retrieval.ignore_identical_ids`, `index` and `collection.language`; where
`feedback.retriever` is dense, `dense` instead of the weight and of BM25's.
"""

import time
from typing import Any

import click

from qedistill.feedback import from_source, score_candidates, summary
from qedistill.layout import DENSE, FEEDBACK, METRICS, SAMPLES, TEACHER, qrels, queries
from qedistill.params import load_params
from qedistill.prompts import STYLES
from qedistill.retrieval import DenseSearcher, combine, open_searcher
from qedistill.text import read_jsonl, read_qrels, read_queries, write_json, write_jsonl
from qedistill.tracking import stage_run
from qedistill.words import cut_words

DEPTH = 10  # nDCG@10 looks no deeper


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with stage_run("feedback", params) as run:
        start = time.perf_counter()
        texts = {i: text for split in params.pair_splits for i, text in read_queries(queries(split)).items()}
        judgments = {i: grades for split in params.pair_splits for i, grades in read_qrels(qrels(split)).items()}
        candidates = [
            record | {"text": cut_words(record["text"], params.student.max_words)}
            for style in STYLES
            for record in read_jsonl(TEACHER / f"{style}.jsonl")
            if record["query_id"] in texts
        ] + list(read_jsonl(SAMPLES))
        asked = {str(position): texts[c["query_id"]] for position, c in enumerate(candidates)}
        added = {str(position): str(c["text"]) for position, c in enumerate(candidates)}
        alone = {f"query {i}": text for i, text in texts.items()}
        owners = {str(n): c["query_id"] for n, c in enumerate(candidates)} | {f"query {i}": i for i in texts}
        if params.feedback.retriever == "dense":
            dense = DenseSearcher(DENSE, params.dense, params.retrieval.ignore_identical_ids)
            samples = {key: [added.get(key, "")] for key in asked | alone}
            found = dense.search_expanded(asked | alone, samples, DEPTH, owners)
        else:
            searcher = open_searcher(params, "train")
            weight = params.feedback.query_weight
            expanded = {key: combine(text, added[key], weight) for key, text in asked.items()}
            found = searcher.search(expanded | alone, DEPTH, owners=owners)
        scored = score_candidates(candidates, found, {i: found[f"query {i}"] for i in texts}, judgments)
        write_jsonl(FEEDBACK, scored)
        figures: dict[str, Any] = {
            source: summary(own) for source in ("teacher", "student") if (own := from_source(scored, source))
        }
        figures["seconds"] = round(time.perf_counter() - start, 1)
        write_json(METRICS / "feedback.json", figures)
        run.metrics(figures)
    for source in ("teacher", "student"):
        if source in figures:
            click.echo("{candidates} candidates of the {0}: mean nDCG@10 {ndcg@10:.4f}, a query's best {best:.4f}, "
                       "the queries alone {baseline:.4f}".format(source, **figures[source]))  # fmt: skip


if __name__ == "__main__":
    main()
