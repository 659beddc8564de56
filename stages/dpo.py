"""Align the SFT student with retrieval feedback (DPO on the pairs; reference: the SFT student): adapter models/dpo.

Reads params `dpo`, `training` and `seed`. Killed, it goes on from its last checkpoint when run again.
"""

from pathlib import Path
from typing import Any

import click

from qedistill.errors import UserError
from qedistill.layout import CHECKPOINTS, METRICS, MODELS, PAIRS, PLOTS
from qedistill.params import load_params
from qedistill.tally import Tally
from qedistill.text import atomic, read_jsonl, write_csv, write_json
from qedistill.tracking import stage_run


@click.command(help=__doc__)
def main() -> None:
    from qedistill.training.data import MORE_CANDIDATES
    from qedistill.training.dpo import train_dpo
    from qedistill.training.launch import is_main, through_accelerate

    params = load_params()
    through_accelerate(params.training)

    tally = Tally()

    def train(out: Path, on_log: Any = None) -> dict[str, Any]:
        pairs, validation = (list(read_jsonl(PAIRS / f"{split}.jsonl")) for split in ("train", "validation"))
        if not pairs:
            more = MORE_CANDIDATES[params.pairs.candidates]
            raise UserError(f"{PAIRS}/train.jsonl holds no pair: lower pairs.margin, or raise {more}")
        return train_dpo(
            MODELS / "base", MODELS / "sft", out, pairs, validation, params.dpo, params.seed, CHECKPOINTS / "dpo", on_log,
            tally,
        ) | {"told": tally.figures()}  # fmt: skip

    if not is_main():
        train(MODELS / "dpo")
        return
    with stage_run("dpo", params) as run:
        with atomic(MODELS / "dpo") as folder:
            figures = train(folder, lambda row: run.curve([row]))
        write_csv(PLOTS / "dpo.csv", [row for row in figures.pop("curve") if row["loss"] is not None])
        write_json(METRICS / "dpo.json", figures)
        run.metrics(figures)
        run.artifact(PLOTS / "dpo.csv")


if __name__ == "__main__":
    main()
