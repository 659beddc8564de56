"""Evaluate every run with ranx, checked by pytrec_eval, and compare it with the original query and the teacher.

Reads params `evaluation`, `collection.tests` and `seed`; `index`, `retrieval` and `collection.language` tell which published
figure a baseline must reproduce (a difference is told loudly). Writes metrics/evaluate/SPLIT/SYSTEM.json (validation is what
choices are made on, the test sets are what counts; SPLIT.dense and SPLIT.fused where there is dense retrieval),
plots/systems.csv and the table report/results.md. The stage fails
where ranx and pytrec_eval differ by more than 1e-6.
"""

import click

from qedistill import report
from qedistill.evaluation import SYSTEMS, evaluate
from qedistill.layout import METRICS, PLOTS, RETRIEVERS, RUNS, TABLE, part, qrels
from qedistill.params import load_params
from qedistill.published import TOLERANCE, compare, published
from qedistill.text import atomic, read_qrels, read_run, write_csv, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    tests = list(params.collection.tests)
    splits = [*(("validation",) if params.collection.train else ()), *tests]
    with stage_run("evaluate", params) as run:
        figures, bars, apart = {}, [], []
        for name, split in {part(s, r): s for s in splits for r in RETRIEVERS}.items():
            runs = {s: read_run(path) for s in SYSTEMS if (path := RUNS / name / f"{s}.trec").exists()}
            if not (runs and (judged := read_qrels(qrels(split)))):  # collection.validation may be 0
                continue
            figures[name] = evaluate(judged, runs, params.evaluation, params.seed)
            if name in params.collection.tests:
                apart += [f"{name}, {told}" for told in compare(figures[name], published(params, name))]
            bars += [{"system": f"{name}: {s}", "ndcg@10": f["ndcg@10"]} for s, f in figures[name].items()]
        with atomic(METRICS / "evaluate") as folder:
            for name, by_system in figures.items():
                for system, values in by_system.items():
                    write_json(folder / name / f"{system}.json", values)
        write_csv(PLOTS / "systems.csv", bars)
        header, body = report.rows(METRICS, tests)
        with atomic(TABLE) as target:
            target.write_text(report.to_markdown(header, body) + "\n", encoding="utf-8")
        run.metrics(figures)
        run.artifact(TABLE, PLOTS / "systems.csv")
    report.show(header, body)
    if apart:
        click.secho(
            f"WARNING: not as published, by more than {TOLERANCE}; trust no figure before you know why:",
            fg="red",
            bold=True,
            err=True,
        )
        for told in apart:
            click.secho(f"  {told}", fg="red", bold=True, err=True)


if __name__ == "__main__":
    main()
