"""Build the Lucene index data/index of data/collection/corpus.jsonl, with the analyser of the collection's language.

Reads params `collection.language` and `index`. Positions and document vectors are stored, so that RM3 and Rocchio work.
"""

import time

import click

from qedistill.layout import COLLECTION, INDEX, METRICS
from qedistill.params import load_params
from qedistill.progress import track
from qedistill.retrieval import build_index
from qedistill.text import atomic, read_json, read_jsonl, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with stage_run("index", params) as run:
        start = time.perf_counter()
        total = read_json(METRICS / "collection.json")["documents"]
        with atomic(INDEX) as folder:
            documents = track(read_jsonl(COLLECTION / "corpus.jsonl"), "Indexing", total)
            count = build_index(documents, folder, params.collection.language, params.index.threads)
        figures = {"documents": count, "seconds": round(time.perf_counter() - start, 1)}
        write_json(METRICS / "index.json", figures)
        run.metrics(figures)
    click.echo(f"{count} documents indexed in {figures['seconds']} s")


if __name__ == "__main__":
    main()
