"""Build the Lucene index data/index of data/collection/corpus.jsonl, with the analyser of the collection's language.

Reads params `collection.language` and `index`. Positions and document vectors are stored, so that RM3 and Rocchio work.
Prebuilt indexes (`index.prebuilt`, `index.others`) are fetched into pyserini's cache; data/index then names them.
"""

import time

import click

from qedistill.layout import COLLECTION, INDEX, METRICS
from qedistill.params import load_params
from qedistill.progress import track
from qedistill.retrieval import build_index
from qedistill.retrieval.indexes import PREBUILT, describe_prebuilt, fetch_prebuilt
from qedistill.text import atomic, read_json, read_jsonl, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    wanted = params.index
    with stage_run("index", params) as run:
        start = time.perf_counter()
        names = sorted({*wanted.others.values(), *([wanted.prebuilt] if wanted.prebuilt else [])})
        prebuilt = {name: describe_prebuilt(name) for name in names}  # all names before the first gigabyte
        for name in names:
            fetch_prebuilt(name)
        figures = {f"documents_of_{name}": entry["documents"] for name, entry in prebuilt.items()}
        with atomic(INDEX) as folder:
            if not wanted.prebuilt:
                total = read_json(METRICS / "collection.json")["documents"]
                documents = track(read_jsonl(COLLECTION / "corpus.jsonl"), "Indexing", total)
                figures["documents"] = build_index(documents, folder, params.collection.language, wanted.threads)
            if prebuilt:
                folder.mkdir(exist_ok=True)
                write_json(folder / PREBUILT, prebuilt)
        figures["seconds"] = round(time.perf_counter() - start, 1)
        write_json(METRICS / "index.json", figures)
        run.metrics(figures)
    if not wanted.prebuilt:
        click.echo(f"{figures['documents']} documents indexed in {figures['seconds']} s")
    for name, entry in prebuilt.items():
        click.echo(f"{name}: {entry['documents']} documents, prebuilt")


if __name__ == "__main__":
    main()
