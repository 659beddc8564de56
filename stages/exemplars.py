"""Choose the exemplars (training query → relevant passage) of the few-shot prompt: data/exemplars.json.

Reads params `teacher.exemplars` and `seed`.
"""

from dataclasses import asdict

import click

from qedistill.layout import COLLECTION, EXEMPLARS, qrels, queries
from qedistill.params import load_params
from qedistill.prompts import choose_exemplars
from qedistill.text import read_jsonl, read_qrels, read_queries, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    wanted = params.teacher.exemplars
    with stage_run("exemplars", params) as run:
        judgments = read_qrels(qrels("train"))
        judged = {doc_id for grades in judgments.values() for doc_id in grades}
        passages = {
            doc["doc_id"]: ": ".join(part for part in (doc["title"], doc["text"]) if part)
            for doc in read_jsonl(COLLECTION / "corpus.jsonl")
            if doc["doc_id"] in judged
        }
        exemplars = choose_exemplars(
            read_queries(queries("train")), judgments, passages, wanted.k, wanted.ids, wanted.max_words, params.seed
        )
        write_json(EXEMPLARS, [asdict(exemplar) for exemplar in exemplars])
        run.artifact(EXEMPLARS)
    for exemplar in exemplars:
        click.echo(f"{exemplar.query_id}: {exemplar.query} → {exemplar.doc_id}")


if __name__ == "__main__":
    main()
