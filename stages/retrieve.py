"""Search with the original queries, RM3, Rocchio and every expansion: TREC runs runs/SPLIT/SYSTEM.trec.

Reads params `retrieval`, `index`, `collection.language` and `collection.tests`. A query stands `retrieval.query_weight` times
before its expansion, whose samples are put together as `retrieval.combine` says; `auto` takes the
weight of the best mean nDCG@10 on validation, one for the students and one for the teachers.
"""

import click

from qedistill.evaluation import QUERY, RM3, ROCCHIO, STUDENTS, SYSTEMS, TEACHERS
from qedistill.layout import EXPANSIONS, METRICS, RUNS, TEACHER, qrels, queries
from qedistill.params import Rm3, Rocchio, load_params
from qedistill.retrieval import choose_weight, open_searcher, search_expanded
from qedistill.text import atomic, read_jsonl, read_qrels, read_queries, write_json, write_run
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
    searchers = {split: open_searcher(params, split) for split in splits}
    feedback: dict[str, Rm3 | Rocchio | None] = {QUERY: None, RM3: wanted.rm3, ROCCHIO: wanted.rocchio}
    weights: dict[str, int] = {}
    on_validation: dict[str, dict[int, float]] = {}

    def samples(system: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for record in read_jsonl(SOURCES[system]):
            # A teacher's answer to a test query is one; that to a validation query must be no more.
            if system in STUDENTS or record["sample"] == 0:
                found.setdefault(record["query_id"], []).append(record["text"])
        if system not in STUDENTS:  # it may lack an answer (teacher.tolerance): the query then stands alone
            found = {i: found.get(i, [""]) for split in splits for i in texts[split]}
        return found

    with stage_run("retrieve", params) as run, atomic(RUNS) as folder:
        for system in feedback.keys() & set(systems):
            for split in splits:
                write_run(
                    folder / split / f"{system}.trec",
                    searchers[split].search(texts[split], wanted.depth, feedback[system]),
                    system,
                )
        for kind in (STUDENTS, tuple(TEACHERS.values())):
            expansions = {system: samples(system) for system in kind if system in systems}
            if not expansions:
                continue
            weight, tried = choose_weight(
                searchers["validation"], texts["validation"], read_qrels(qrels("validation")), expansions, wanted
            )
            on_validation |= tried
            for system, found in expansions.items():
                weights[system] = weight
                for split in splits:
                    results = search_expanded(searchers[split], texts[split], found, weight, wanted.depth, wanted)
                    write_run(folder / split / f"{system}.trec", results, system)
            click.echo(f"{', '.join(expansions)}: query × {weight}")
        figures = {"query_weight": weights, "validation": on_validation}
        write_json(METRICS / "retrieve.json", figures)
        run.metrics({"query_weight": weights})


if __name__ == "__main__":
    main()
