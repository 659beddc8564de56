"""Sample expansions of the training queries from the SFT student, as candidates for pairs: data/samples.jsonl.

Reads params `feedback.samples` (0: an empty file), `feedback.temperature`, `dpo.evaluations` (above 0: of the validation
queries too), `generation.max_new_tokens`,
`generation.batch_size`, `generation.server`, `generation.key_variable`, `student.prompt`, `student.max_words`,
`collection.language`, `collection.document` and `seed`.
"""

from typing import Any

import click

from qedistill.generation.student import expand
from qedistill.layout import METRICS, MODELS, SAMPLES, queries
from qedistill.params import load_params
from qedistill.tally import Tally
from qedistill.text import read_queries, write_json, write_jsonl
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    params = load_params()
    wanted, tally = params.feedback, Tally()
    with stage_run("sample", params) as run:
        records: list[dict[str, Any]] = []
        figures: dict[str, Any] = {"samples": 0}
        if wanted.samples:
            asked = {i: text for split in params.pair_splits for i, text in read_queries(queries(split)).items()}
            records, figures = expand(
                MODELS / "sft", MODELS / "base", asked, wanted.samples, wanted.temperature, params, tally
            )  # fmt: skip
        tally.tell()
        figures |= {"told": tally.figures()}
        write_jsonl(SAMPLES, records)
        write_json(METRICS / "sample.json", figures)
        run.metrics(figures)
    click.echo(f"{len(records)} samples of the SFT student")


if __name__ == "__main__":
    main()
