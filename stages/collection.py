"""Write the collection: documents, and the queries and judgments of every split, to data/collection.

Reads params `collection`, `teacher.exemplars.ids` (kept out of validation), `index.prebuilt` and `seed`. Validation is
carved from train. A test query that stands in train stops the run. What is left out, merged or renamed is told, and counted
in metrics/collection.json; where `retrieval.query_weight: auto` wants a validation that has no query, that is told, too. With
a prebuilt index no document is read: corpus.jsonl is empty.
"""

import click

from qedistill.collection import describe, lacks_validation, read_documents, read_splits, write_collection
from qedistill.layout import COLLECTION, METRICS
from qedistill.params import load_params
from qedistill.progress import track
from qedistill.tally import Tally
from qedistill.text import write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params, tally = load_params(), Tally()
    with stage_run("collection", params) as run:
        # Queries before documents: what is wrong with them is told before millions of documents are read.
        splits = read_splits(params.collection, set(params.teacher.exemplars.ids), params.seed, tally)
        documents = None if params.index.prebuilt else read_documents(params.collection, tally)
        doc_ids = write_collection(COLLECTION, splits, documents and track(documents, "Reading documents"))
        figures = describe(splits, doc_ids, tally)
        write_json(METRICS / "collection.json", figures)
        run.metrics(figures)
    tally.tell()
    documents_read = f"{figures['documents']} documents; " if "documents" in figures else ""
    sizes = {name: len(split.queries) for name, split in splits.items()}
    click.echo(f"{documents_read}queries: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    if lacking := lacks_validation(params, sizes):
        click.secho(f"WARNING: {lacking}", fg="red", bold=True, err=True)


if __name__ == "__main__":
    main()
