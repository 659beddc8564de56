"""Search with the original queries, RM3, Rocchio and every expansion: TREC runs runs/SPLIT/SYSTEM.trec.

Reads params `retrieval`, `collection.language` and `collection.tests`. A query stands `retrieval.query_weight` times
before its expansion, whose samples are put together as `retrieval.combine` says; `auto` takes, for each system, the weight of the best nDCG@10 on validation.
"""

import click

from qedistill.evaluation import QUERY, RM3, ROCCHIO, STUDENTS, SYSTEMS, TEACHERS
from qedistill.layout import EXPANSIONS, INDEX, METRICS, RUNS, TEACHER, qrels, queries
from qedistill.params import load_params
from qedistill.retrieval import Searcher, choose_weight, search_expanded
from qedistill.text import Run, atomic, read_jsonl, read_qrels, read_queries, write_json, write_run
from qedistill.tracking import stage_run

SOURCES = {model: EXPANSIONS / f"{model}.jsonl" for model in STUDENTS} | {
    system: TEACHER / f"{style}.jsonl" for style, system in TEACHERS.items()
}


@click.command(help=__doc__)
@click.option(
    "--system", "systems", type=click.Choice(SYSTEMS), multiple=True, default=SYSTEMS,
    help="Only this system; may be repeated. `--system query --system rm3` needs an index and nothing else.",
)  # fmt: skip
def main(systems: tuple[str, ...]) -> None:
    params = load_params()
    wanted = params.retrieval
    splits = [*(("validation",) if params.collection.train else ()), *params.collection.tests]
    texts = {split: read_queries(queries(split)) for split in splits}
    searcher = Searcher(INDEX, params.collection.language, wanted.bm25)
    feedback = {QUERY: None, RM3: wanted.rm3, ROCCHIO: wanted.rocchio}
    weights: dict[str, int] = {}
    on_validation: dict[str, dict[int, float]] = {}

    def search(system: str) -> dict[str, Run]:
        if system in feedback:
            return {s: searcher.search(texts[s], wanted.depth, feedback[system]) for s in splits}
        found: dict[str, list[str]] = {}
        for record in read_jsonl(SOURCES[system]):
            # A teacher's answer to a test query is one; that to a validation query must be no more.
            if system in STUDENTS or record["sample"] == 0:
                found.setdefault(record["query_id"], []).append(record["text"])
        weights[system], on_validation[system] = choose_weight(
            searcher, texts["validation"], read_qrels(qrels("validation")), found, wanted
        )
        return {s: search_expanded(searcher, texts[s], found, weights[system], wanted.depth, wanted) for s in splits}

    with stage_run("retrieve", params) as run, atomic(RUNS) as folder:
        for system in systems:
            click.echo(f"{system} …", nl=False)
            for split, found in search(system).items():
                write_run(folder / split / f"{system}.trec", found, system)
            click.echo(f" query × {weights[system]}" if system in weights else "")
        figures = {"query_weight": weights, "validation": on_validation}
        write_json(METRICS / "retrieve.json", figures)
        run.metrics({"query_weight": weights})


if __name__ == "__main__":
    main()
