"""Get the teacher's expansions in one prompt STYLE, recorded, from an API or a local model: data/teacher/STYLE.jsonl.

Reads params `teacher`, `collection` and `seed`. Training and validation queries get `teacher.samples` answers, test
queries one. Exemplars that all queries share get none in the few_shot style: they would be shown their own answer. An
API's answers are kept in the ledger (ledger.db, or $QEDISTILL_LEDGER), and never asked for twice.
"""

import click

from qedistill.generation.cost import of_teacher
from qedistill.generation.teacher import read_requests, teach
from qedistill.layout import METRICS, TEACHER, ledger
from qedistill.params import load_params
from qedistill.prompts import STYLES
from qedistill.tally import Tally
from qedistill.text import write_json, write_jsonl
from qedistill.tracking import stage_run


@click.command(help=__doc__)
@click.argument("style", type=click.Choice(STYLES))
def main(style: str) -> None:
    params = load_params()
    with stage_run(f"teach@{style}", params) as run:
        told = Tally()
        records, figures, asked = teach(style, read_requests(params), params, ledger(), told)
        write_jsonl(TEACHER / f"{style}.jsonl", records)
        write_json(METRICS / f"teach@{style}.json", figures)
        write_json(METRICS / f"cost@{style}.json", of_teacher(records, params, figures.get("seconds")))
        run.metrics(figures | {"calls_of_this_run": asked})
    told.tell()
    spent = "".join(
        f", {figures[key]:,} {key.replace('_', ' ')}"
        for key in ("prompt_tokens", "completion_tokens")
        if key in figures
    )
    cost = f", cost {figures['cost']:.4f}" if "cost" in figures else ""
    click.echo(f"{style}: {figures['answers']} answers to {figures['queries']} queries; {asked} calls{spent}{cost}")


if __name__ == "__main__":
    main()
