"""Get the teacher's expansions in one prompt STYLE, recorded or from a local model, for every query: data/teacher/STYLE.jsonl.

Reads params `teacher`, `collection` and `seed`. Training and validation queries get `teacher.samples` answers, test
queries one. The exemplars themselves get none in the few_shot style: they would be shown their own answer.
"""

import click

from qedistill.generation import teach
from qedistill.layout import EXEMPLARS, METRICS, TEACHER, queries
from qedistill.params import load_params
from qedistill.prompts import STYLES, Exemplar
from qedistill.text import read_json, read_queries, write_json, write_jsonl
from qedistill.tracking import stage_run


@click.command(help=__doc__)
@click.argument("style", type=click.Choice(STYLES))
def main(style: str) -> None:
    params = load_params()
    with stage_run(f"teach@{style}", params) as run:
        exemplars = [Exemplar(**e) for e in read_json(EXEMPLARS)] if style == "few_shot" else []
        learning = read_queries(queries("train")) | read_queries(queries("validation"))
        testing = {i: text for name in params.collection.tests for i, text in read_queries(queries(name)).items()}
        answers = teach(style, learning, testing, exemplars, params)
        write_jsonl(TEACHER / f"{style}.jsonl", answers)
        figures = {
            "queries": len({a["query_id"] for a in answers}),
            "answers": len(answers),
            "words_per_answer": sum(len(a["text"].split()) for a in answers) / len(answers),
        }
        write_json(METRICS / f"teach@{style}.json", figures)
        run.metrics(figures)
    click.echo(f"{style}: {figures['answers']} answers to {figures['queries']} queries")


if __name__ == "__main__":
    main()
