"""Choose the exemplars (training query → passage) of the few-shot prompt: data/exemplars.json, by query, or "*" for all.

Reads params `teacher.exemplars`, `collection.language`, `collection.tests`, `retrieval.bm25`, `retrieval.ignore_identical_ids`, `index` and
`seed`. Passages are the documents judged best, or the first that BM25 retrieves (pseudo-relevant, no judgments needed).
"""

from dataclasses import asdict

import click

from qedistill.exemplars import choose_exemplars, judged_passages
from qedistill.layout import EXEMPLARS, qrels, queries
from qedistill.params import load_params
from qedistill.retrieval import fetch_documents, open_searcher
from qedistill.text import Qrels, read_qrels, read_queries, write_json
from qedistill.tracking import stage_run


def relevant(judgments: Qrels) -> set[str]:
    return {doc_id for grades in judgments.values() for doc_id, grade in grades.items() if grade > 0}


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
            found = open_searcher(params, "train").search(training, 1)
            judgments = {query_id: dict.fromkeys(hits, 1) for query_id, hits in found.items()}
        for (
            split
        ) in params.collection.tests:  # is it the index of these documents? Better told before a teacher is paid
            if params.index.of(split):
                fetch_documents(params, split, relevant(read_qrels(qrels(split))))
        passages = judged_passages(
            judgments, fetch_documents(params, "train", relevant(judgments)), params.retrieval.ignore_identical_ids
        )
        own = judged["train"] | judged["validation"]
        chosen = choose_exemplars(training, passages, asked, own, wanted, params.seed, language, bm25)
        write_json(EXEMPLARS, {i: [asdict(exemplar) for exemplar in exemplars] for i, exemplars in chosen.items()})
        run.artifact(EXEMPLARS)
    for query_id, exemplars in list(chosen.items())[:3]:
        for exemplar in exemplars:
            click.echo(f"{query_id}: {exemplar.query} → {exemplar.doc_id}")


if __name__ == "__main__":
    main()
