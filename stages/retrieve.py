"""Search with the original queries, RM3, Rocchio and every expansion: TREC runs runs/SPLIT/SYSTEM.trec.

Reads params `retrieval`, `index`, `dense`, `collection.language` and `collection.tests`. A query stands
`retrieval.query_weight` times before its expansion, whose samples `retrieval.combine` puts together; `auto` takes the
weight of the best mean nDCG@10 on validation, one for the students and one for the teachers.

Where `dense.encoder` is set, all but RM3, Rocchio and sets of `index.others` also go by vectors (SPLIT.dense) and fused.
"""

import click

from qedistill.evaluation import QUERY, RM3, ROCCHIO, STUDENTS, SYSTEMS, TEACHERS
from qedistill.layout import DENSE, EXPANSIONS, METRICS, RUNS, TEACHER, part, qrels, queries
from qedistill.params import Rm3, Rocchio, load_params
from qedistill.retrieval import (
    DenseSearcher,
    choose_weight,
    count_own_documents,
    open_searcher,
    search_expanded,
    with_dense,
)
from qedistill.tally import Tally
from qedistill.text import Run, atomic, read_expansions, read_qrels, read_queries, write_json, write_run
from qedistill.tracking import stage_run

SOURCES = {model: EXPANSIONS / f"{model}.jsonl" for model in STUDENTS} | {
    system: TEACHER / f"{style}.jsonl" for style, system in TEACHERS.items()
}


@click.command(help=__doc__)
@click.option(
    "--system",
    "systems",
    type=click.Choice(SYSTEMS),
    multiple=True,
    default=SYSTEMS,
    help="Only this system; may be repeated. `--system query --system rm3` needs an index and nothing else.",
)
def main(systems: tuple[str, ...]) -> None:
    params = load_params()
    wanted = params.retrieval
    splits = [*(("validation",) if params.collection.train else ()), *params.collection.tests]
    texts = {split: read_queries(queries(split)) for split in splits}
    searchers = {split: open_searcher(params, split) for split in splits}
    judged = {split: read_qrels(qrels(split)) for split in splits}
    dense = DenseSearcher(DENSE, params.dense, wanted.ignore_identical_ids) if params.dense.encoder else None
    feedback: dict[str, Rm3 | Rocchio | None] = {QUERY: None, RM3: wanted.rm3, ROCCHIO: wanted.rocchio}
    tally = Tally()
    weights: dict[str, int] = {}
    on_validation: dict[str, dict[int, float]] = {}

    def samples(system: str) -> dict[str, list[str]]:
        if system in STUDENTS:
            return read_expansions(SOURCES[system])
        # A teacher's answer to a test query is one; that to a validation query must be no more. It may lack an answer
        # (teacher.tolerance): the query then stands alone.
        found = read_expansions(SOURCES[system], 1)
        return {i: found.get(i, [""]) for split in splits for i in texts[split]}

    with stage_run("retrieve", params) as run, atomic(RUNS) as folder:

        def write(split: str, system: str, sparse: Run, added: dict[str, list[str]] | None) -> None:
            second = None if split in params.index.others else dense
            for retriever, found in with_dense(sparse, second, texts[split], added, wanted.depth).items():
                write_run(folder / part(split, retriever) / f"{system}.trec", found, system)

        for system in feedback.keys() & set(systems):
            for split in splits:
                found = searchers[split].search(texts[split], wanted.depth, feedback[system])
                write(split, system, found, {i: [""] for i in texts[split]} if system == QUERY else None)
                if system == QUERY:
                    count_own_documents(params, split, texts[split], judged[split], found, tally)
        for kind in (STUDENTS, tuple(TEACHERS.values())):
            expansions = {system: samples(system) for system in kind if system in systems}
            if not expansions:
                continue
            weight, tried = choose_weight(
                searchers["validation"], texts["validation"], judged["validation"], expansions, wanted
            )
            on_validation |= tried
            for system, added in expansions.items():
                weights[system] = weight
                for split in splits:
                    found = search_expanded(searchers[split], texts[split], added, weight, wanted.depth, wanted)
                    write(split, system, found, added)
            click.echo(f"{', '.join(expansions)}: query × {weight}")
        told = {"told": tally.figures()}
        write_json(METRICS / "retrieve.json", {"query_weight": weights, "validation": on_validation} | told)
        run.metrics({"query_weight": weights} | told)
    tally.tell()


if __name__ == "__main__":
    main()
