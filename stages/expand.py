"""Expand the validation and test queries with a student MODEL: data/expansions/MODEL.jsonl.

Reads params `generation`, `student.prompt`, `student.max_words`, `collection.language`, `collection.document`,
`collection.tests` and `seed`. Tokens and seconds are recorded with every expansion.
"""

import time

import click

from qedistill.evaluation import STUDENTS
from qedistill.layout import EXPANSIONS, METRICS, MODELS, queries
from qedistill.params import load_params
from qedistill.text import read_queries, write_json, write_jsonl
from qedistill.tracking import stage_run


@click.command(help=__doc__)
@click.argument("model", type=click.Choice(STUDENTS))
def main(model: str) -> None:
    from qedistill.generation.local import generate
    from qedistill.training.data import student_prompt
    from qedistill.training.model import load_student

    params = load_params()
    wanted = params.generation
    with stage_run(f"expand@{model}", params) as run:
        student, tokenizer = load_student(MODELS / model, None if model == "base" else MODELS / "base")
        prompts = {
            query_id: student_prompt(text, params.student, params.collection)
            for split in ("validation", *params.collection.tests)
            for query_id, text in read_queries(queries(split)).items()
        }
        start = time.perf_counter()
        records = generate(
            student, tokenizer, prompts, wanted.max_new_tokens, wanted.temperature, 1, wanted.batch_size, params.seed
        )
        seconds = time.perf_counter() - start
        write_jsonl(EXPANSIONS / f"{model}.jsonl", ({"style": "student", "model": model} | r for r in records))
        tokens = sum(r["completion_tokens"] for r in records)
        figures = {
            "queries": len(records),
            "tokens_per_query": tokens / len(records),
            "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens / seconds, 1),
        }
        write_json(METRICS / f"expand@{model}.json", figures)
        run.metrics(figures)
    click.echo(f"{len(records)} queries expanded in {seconds:.0f} s, {figures['tokens_per_query']:.0f} tokens each")


if __name__ == "__main__":
    main()
