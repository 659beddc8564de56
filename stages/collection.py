"""Write the collection: documents, and the queries and judgments of every split, to data/collection.

Reads params `collection`, `teacher.exemplars.ids` (kept out of validation), `index.prebuilt` and `seed`. Validation is
carved from train. A test query that stands in train stops the run; judged documents that are absent are counted in
metrics/collection.json. With a prebuilt index no document is read: corpus.jsonl is empty.
"""

import click

from qedistill.collection import describe, read_documents, read_splits
from qedistill.layout import COLLECTION, METRICS
from qedistill.params import load_params
from qedistill.progress import track
from qedistill.text import atomic, write_json, write_jsonl, write_qrels, write_queries
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with stage_run("collection", params) as run:
        # Queries before documents: what is wrong with them is told before millions of documents are read.
        splits = read_splits(params.collection, set(params.teacher.exemplars.ids or ()), params.seed)
        doc_ids: set[str] = set()

        def documents():  # type: ignore[no-untyped-def]
            if params.index.prebuilt:
                return
            for document in track(read_documents(params.collection), "Reading documents"):
                doc_ids.add(document["doc_id"])
                yield document

        with atomic(COLLECTION) as folder:
            write_jsonl(folder / "corpus.jsonl", documents())
            for name, split in splits.items():
                write_queries(folder / "queries" / f"{name}.tsv", split.queries)
                write_qrels(folder / "qrels" / f"{name}.txt", split.qrels)
        figures = describe(splits, None if params.index.prebuilt else doc_ids)
        write_json(METRICS / "collection.json", figures)
        run.metrics(figures)
    documents_read = f"{figures['documents']} documents; " if "documents" in figures else ""
    click.echo(f"{documents_read}queries: " + ", ".join(f"{n} {len(s.queries)}" for n, s in splits.items()))
    for name in splits:
        if missing := figures[name].get("dangling"):
            click.echo(
                f"{name}: {missing} of {figures[name]['judgments']} judgments are of documents not in the collection"
            )


if __name__ == "__main__":
    main()
