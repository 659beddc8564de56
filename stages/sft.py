"""Teach the student the teacher's expansions (SFT with LoRA, loss on the completion only): adapter models/sft.

Reads params `sft`, `training`, `student.prompt`, `student.max_words`, `collection.language`, `collection.document` and `seed`.
Killed, it goes on from its last checkpoint when run again; the checkpoint of the lowest validation loss is kept.
"""

from pathlib import Path
from typing import Any

import click

from qedistill.layout import CHECKPOINTS, METRICS, MODELS, PLOTS, TEACHER, queries
from qedistill.params import load_params
from qedistill.prompts import STYLES
from qedistill.tally import Tally
from qedistill.text import atomic, read_jsonl, read_queries, write_csv, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    from qedistill.training.data import sft_rows
    from qedistill.training.launch import is_main, through_accelerate
    from qedistill.training.sft import train_sft

    params = load_params()
    through_accelerate(params.training)

    tally = Tally()

    def train(out: Path, on_log: Any = None) -> dict[str, Any]:
        answers = [record for style in STYLES for record in read_jsonl(TEACHER / f"{style}.jsonl")]
        rows, validation = (
            sft_rows(
                read_queries(queries(split)), answers, params.sft.samples, params.student, params.collection, tally
            )
            for split in ("train", "validation")
        )
        return train_sft(
            MODELS / "base", out, rows, validation, params.sft, params.seed, CHECKPOINTS / "sft", on_log, tally
        ) | {"told": tally.figures()}  # fmt: skip

    if not is_main():
        train(MODELS / "sft")
        return
    with stage_run("sft", params) as run:
        with atomic(MODELS / "sft") as folder:
            figures = train(folder, lambda row: run.curve([row]))
        curve = figures.pop("curve")
        # Apart, as a plot takes an empty cell for 0.
        write_csv(PLOTS / "sft.csv", [row for row in curve if row["loss"] is not None])
        validated = [row for row in curve if row.get("eval_loss") is not None]
        write_csv(PLOTS / "sft_validation.csv", validated, ["step", "eval_loss"])
        write_json(METRICS / "sft.json", figures)
        run.metrics(figures)
        run.artifact(PLOTS / "sft.csv")


if __name__ == "__main__":
    main()
