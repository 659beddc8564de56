"""Align the SFT student with retrieval feedback (DPO on the pairs; reference: the SFT student): adapter models/dpo.

Reads params `dpo` and `seed`. Killed, it goes on from its last checkpoint when run again.
"""

import click

from qedistill.errors import UserError
from qedistill.layout import CHECKPOINTS, METRICS, MODELS, PAIRS, PLOTS
from qedistill.params import load_params
from qedistill.text import atomic, read_jsonl, write_csv, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    from qedistill.training.dpo import train_dpo

    params = load_params()
    with stage_run("dpo", params) as run:
        train, validation = ([
            {key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in read_jsonl(PAIRS / f"{split}.jsonl")
        ] for split in ("train", "validation"))  # fmt: skip
        if not train:
            raise UserError(f"{PAIRS}/train.jsonl holds no pair: lower pairs.margin, or raise teacher.samples")
        with atomic(MODELS / "dpo") as folder:
            figures = train_dpo(
                MODELS / "base", MODELS / "sft", folder, train, validation, params.dpo, params.seed, CHECKPOINTS / "dpo",
                lambda row: run.curve([row]),
            )  # fmt: skip
        write_csv(PLOTS / "dpo.csv", [row for row in figures.pop("curve") if row["loss"] is not None])
        write_json(METRICS / "dpo.json", figures)
        run.metrics(figures)
        run.artifact(PLOTS / "dpo.csv")


if __name__ == "__main__":
    main()
