"""Put together what experiments are compared by: metrics/summary.json, a dozen figures, and plots/queries.csv, a row a query.

Reads params `collection.train` and `collection.tests`. In MLflow the experiment's own run gets the figures, training
curves, the table of results, each query's nDCG@10, the heads of the runs and the student as a model version.
"""

from typing import Any

import click

from qedistill.card import model_card
from qedistill.evaluation import SYSTEMS
from qedistill.layout import METRICS, MODELS, PLOTS, RUNS, SUMMARY, TABLE, qrels, queries
from qedistill.params import load_params
from qedistill.summary import headline, heads_of, query_rows
from qedistill.text import Queries, read_csv, read_qrels, read_queries, read_run, write_csv, write_json
from qedistill.tracking import stage_run

CURVES = {"sft": ["loss"], "sft_validation": ["eval_loss"], "dpo": ["loss", "rewards/margins", "rewards/accuracies"]}


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    with stage_run("summary", params) as run:
        rows: list[dict[str, Any]] = []
        texts: Queries = {}
        parts = sorted(folder.name for folder in RUNS.iterdir())
        for part in parts:  # a split, or split.retriever
            split = part.partition(".")[0]
            runs = {s: read_run(path) for s in SYSTEMS if (path := RUNS / part / f"{s}.trec").exists()}
            rows += query_rows(read_qrels(qrels(split)), runs, part)
            texts |= read_queries(queries(split))
        tests = [part for test in params.collection.tests for part in parts if part.partition(".")[0] == test]
        figures = headline(METRICS, tests)
        write_json(SUMMARY, figures)
        write_csv(PLOTS / "queries.csv", rows, ["rank", "query_id", "split", "query", "dpo", "difference"])

        run.experiment.metrics(figures)
        for name, columns in CURVES.items():
            points = read_csv(PLOTS / f"{name}.csv", ["step", *columns])
            run.experiment.curve(points, section=name.partition("_")[0])
        # The UI's comparison groups by the first column and shows the second.
        run.experiment.table([{"text": texts[r["query_id"]], "dpo": r.get("dpo")} | r for r in rows], "queries")
        with heads_of(RUNS) as archive:
            run.experiment.artifact(TABLE, METRICS, archive)
        table = TABLE.read_text(encoding="utf-8")
        run.experiment.describe(table)
        run.data()
        if params.tracking.model:
            card = model_card(MODELS / "dpo", run.experiment_name, table, METRICS, params)
            run.model(params.tracking.model, MODELS / "dpo", card, figures)


if __name__ == "__main__":
    main()
