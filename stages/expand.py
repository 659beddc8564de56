"""Expand the validation and test queries with a student MODEL: data/expansions/MODEL.jsonl.

Reads params `generation`, `student.prompt`, `student.max_words`, `collection.language`, `collection.document`,
`collection.tests` and `seed`. Tokens are recorded with every expansion.
"""

import click

from qedistill.evaluation import STUDENTS
from qedistill.generation.student import expand
from qedistill.layout import EXPANSIONS, METRICS, MODELS, queries
from qedistill.params import load_params
from qedistill.tally import Tally
from qedistill.text import read_queries, write_json, write_jsonl
from qedistill.tracking import stage_run


@click.command(help=__doc__)
@click.argument("model", type=click.Choice(STUDENTS))
def main(model: str) -> None:
    params = load_params()
    wanted, tally = params.generation, Tally()
    with stage_run(f"expand@{model}", params) as run:
        asked = {
            query_id: text
            for split in ("validation", *params.collection.tests)
            for query_id, text in read_queries(queries(split)).items()
        }
        base = None if model == "base" else MODELS / "base"
        records, figures = expand(MODELS / model, base, asked, wanted.samples, wanted.temperature, params, tally)
        tally.tell()
        write_jsonl(EXPANSIONS / f"{model}.jsonl", records)
        run.metrics(figures | {"told": tally.figures()})
        # The stage cost measures time; what evaluate depends on must be the same each time.
        timed = {key: figures.pop(key) for key in ("seconds", "tokens_per_second")}
        write_json(METRICS / f"expand@{model}.json", figures | {"told": tally.figures()})
    click.echo(
        "{queries} queries expanded in {seconds:.0f} s, {tokens_per_query:.0f} tokens each".format(**figures, **timed)
    )


if __name__ == "__main__":
    main()
