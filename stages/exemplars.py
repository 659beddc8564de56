"""Choose the exemplars (training query → passage) of the few-shot prompt: data/exemplars.json, by query, or "*" for all.

Reads params `teacher.exemplars`, `collection.language`, `collection.tests`, `retrieval.bm25` and `seed`. Passages are the
documents judged best, or the first that BM25 retrieves (pseudo-relevant, no judgments needed).
"""

from dataclasses import asdict

import click

from qedistill.exemplars import choose_exemplars, judged_passages
from qedistill.layout import COLLECTION, EXEMPLARS, INDEX, qrels, queries
from qedistill.params import load_params
from qedistill.retrieval import Searcher
from qedistill.text import read_jsonl, read_qrels, read_queries, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    wanted, language, bm25 = params.teacher.exemplars, params.collection.language, params.retrieval.bm25
    with stage_run("exemplars", params) as run:
        training = read_queries(queries("train"))
        asked = {i: text for split in ("train", "validation", *params.collection.tests)
                 for i, text in read_queries(queries(split)).items()}  # fmt: skip
        judged = {split: read_qrels(qrels(split)) for split in ("train", "validation")}
        if wanted.passages == "judged":
            judgments = judged["train"]
        else:
            found = Searcher(INDEX, language, bm25).search(training, 1)
            judgments = {query_id: dict.fromkeys(hits, 1) for query_id, hits in found.items()}
        needed = {doc_id for grades in judgments.values() for doc_id in grades}
        documents = {
            doc["doc_id"]: ": ".join(part for part in (doc["title"], doc["text"]) if part)
            for doc in read_jsonl(COLLECTION / "corpus.jsonl")
            if doc["doc_id"] in needed
        }
        passages = judged_passages(judgments, documents)
        own = judged["train"] | judged["validation"]
        chosen = choose_exemplars(training, passages, asked, own, wanted, params.seed, language, bm25)
        write_json(EXEMPLARS, {i: [asdict(exemplar) for exemplar in exemplars] for i, exemplars in chosen.items()})
        run.artifact(EXEMPLARS)
    for query_id, exemplars in list(chosen.items())[:3]:
        for exemplar in exemplars:
            click.echo(f"{query_id}: {exemplar.query} → {exemplar.doc_id}")


if __name__ == "__main__":
    main()
