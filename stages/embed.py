"""Encode data/collection/corpus.jsonl and index the vectors for dense retrieval: data/dense.

Reads params `dense.encoder`, `dense.index`, `dense.hnsw` and `dense.batch_size`. Where there is no encoder, nothing is
done; where the index is a prebuilt one, it is downloaded into pyserini's cache instead.
"""

import time

import click

from qedistill.layout import COLLECTION, DENSE, METRICS
from qedistill.params import load_params
from qedistill.retrieval.dense import build_dense, fetch_prebuilt, note
from qedistill.text import atomic, read_json, read_jsonl, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with atomic(DENSE) as folder:
        if params.dense.encoder is None:  # DVC wants what is declared, MLflow nothing
            note(folder, params.dense)
            write_json(METRICS / "embed.json", {"documents": 0, "seconds": 0.0})
            return
        with stage_run("embed", params) as run:
            start = time.perf_counter()
            if params.dense.builds:
                total = read_json(METRICS / "collection.json")["documents"]
                count = build_dense(read_jsonl(COLLECTION / "corpus.jsonl"), folder, params.dense, total)
            else:
                count = fetch_prebuilt(params.dense.index)[1]
                note(folder, params.dense)
            figures = {"documents": count, "seconds": round(time.perf_counter() - start, 1)}
            write_json(METRICS / "embed.json", figures)
            run.metrics(figures)
    click.echo(f"{count} documents as vectors in {figures['seconds']} s")


if __name__ == "__main__":
    main()
