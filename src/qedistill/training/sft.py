"""Supervised fine-tuning: the student learns, by LoRA, to write the teacher's expansions."""

from pathlib import Path
from typing import Any

from qedistill.params import Sft
from qedistill.tally import Tally
from qedistill.text import read_json
from qedistill.training import run
from qedistill.training.model import load_student, load_tokenizer, require_positions

Row = dict[str, Any]  # {"prompt": [messages], "completion": [messages]}, as TRL takes them


def train_sft(
    base: Path,
    out: Path,
    train: list[Row],
    validation: list[Row],
    params: Sft,
    seed: int,
    work: Path,
    on_log: run.OnLog | None = None,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Train a LoRA adapter on completions; the prompt bears no loss.

    The same inputs give the same adapter on the same machine, also through a kill and a resume. Where several processes
    train together (`training.launch`), each calls this with the same arguments; the main one writes.

    Args:
        base: folder of the plain model.
        out: folder for the adapter with the lowest validation loss (the last one, without validation rows), and the
            tokenizer; not atomic, the caller sees to that.
        train, validation: conversational prompt-completion rows; `validation` may be empty.
        work: folder for checkpoints. A call with the same inputs goes on from the last one; other inputs start afresh;
            a call that ends well removes it.
        on_log: called with each log row (`step`, `loss` or `eval_loss`, ...).
        tally: counts rows that `run.encode_rows` leaves out or cuts; told before training begins.

    Returns:
        As `run.train`.

    Raises:
        UserError: no rows, no prompt leaves room for an answer within `params.max_length`, or that is longer than the
            model; what `run.train` raises.
    """
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    validation = validation if params.evaluations else []
    inputs = {"base": run.fingerprint(base), "train": train, "validation": validation}
    inputs |= {"params": params.model_dump(), "seed": seed}
    tally = tally or Tally()
    tokenizer = load_tokenizer(base)
    require_positions(read_json(base / "config.json"), {"sft.max_length": params.max_length}, str(base))
    rows = run.encode_rows(train, tokenizer, params.max_length, "sft", tally)
    held_out = run.encode_rows(run.by_text(validation), tokenizer, params.max_length, "sft", tally, "validation")
    args = SFTConfig(
        completion_only_loss=True, **run.arguments(params, seed, work, validate=bool(held_out), keep_best=True)
    )
    if args.process_index == 0:
        tally.tell()
    checkpoint = run.checkpoint(args, inputs)
    model, tokenizer = load_student(base, trainable=True)
    lora = params.lora
    with run.native_head():
        trainer: Any = SFTTrainer(
            model=model,
            args=args,
            train_dataset=_labelled(rows),
            eval_dataset=_labelled(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number will do
                lora_dropout=lora.dropout,
                target_modules=lora.targets,
                task_type="CAUSAL_LM",
            ),
        )
        run.by_length(trainer, [len(row["prompt_ids"] + row["completion_ids"]) for row in rows])
        metrics = run.train(trainer, checkpoint, params.evaluations, on_log, "sft.learning_rate")
    run.finish(trainer, tokenizer, out)
    return metrics


def _labelled(rows: list[dict[str, list[int]]]) -> Any:
    """Rows as TRL trains on them without more ado: only the completion's tokens bear a loss."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "input_ids": row["prompt_ids"] + row["completion_ids"],
                "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"],
            }
            for row in rows
        ]
    )
