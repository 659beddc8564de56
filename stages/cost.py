"""Measure what expanding a query costs with a student MODEL, on this machine: metrics/cost@MODEL.json.

Reads params `cost`, `generation`, `student.prompt`, `collection.language`, `collection.document`, `collection.tests` and
`seed`. Nothing that ranks or trains depends on these figures, as no two runs give the same. What a teacher costs is noted
by the stage teach.
"""

import click

from qedistill.evaluation import STUDENTS
from qedistill.generation.cost import measure
from qedistill.layout import METRICS, MODELS, queries
from qedistill.params import load_params
from qedistill.text import read_queries, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
@click.argument("model", type=click.Choice(STUDENTS))
def main(model: str) -> None:
    params = load_params()
    asked = {i: text for test in params.collection.tests for i, text in read_queries(queries(test)).items()}
    # Before MLflow is loaded, whose memory is not the student's.
    figures = measure(MODELS / model, None if model == "base" else MODELS / "base", asked, params)
    with stage_run(f"cost@{model}", params) as run:
        write_json(METRICS / f"cost@{model}.json", figures)
        run.metrics(figures)
    click.echo(
        "{latency_p50_seconds:.2f} s a query alone, {queries_per_second:.1f} queries/s in batches of {batch_size} samples, "
        "{peak_memory_mb:.0f} MB at most".format(**figures)
    )


if __name__ == "__main__":
    main()
