"""Supervised fine-tuning: the student learns, by LoRA, to write the teacher's expansions."""

from pathlib import Path
from typing import Any

from qedistill.params import Sft
from qedistill.training import run
from qedistill.training.model import load_student

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

    Returns:
        As `run.train`.

    Raises:
        UserError: no rows, or no prompt leaves room for an answer within `params.max_length`.
    """
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    validation = validation if params.evaluations else []
    inputs = {"base": run.fingerprint(base), "train": train, "validation": validation}
    inputs |= {"params": params.model_dump(), "seed": seed}
    args = SFTConfig(
        completion_only_loss=True, **run.arguments(params, seed, work, validate=bool(validation), keep_best=True)
    )
    checkpoint = run.checkpoint(args, inputs)
    model, tokenizer = load_student(base, trainable=True)
    run.require_room([row["prompt"] for row in train], tokenizer, params.max_length, "sft")
    lora = params.lora
    with run.native_head():
        trainer: Any = SFTTrainer(
            model=model,
            args=args,
            train_dataset=run.dataset(train, by_length=False),
            eval_dataset=run.dataset(validation, by_length=True) if validation else None,
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number will do
                lora_dropout=lora.dropout,
                target_modules=lora.targets,
                task_type="CAUSAL_LM",
            ),
        )
        run.by_length(trainer, [len(ids) for ids in trainer.train_dataset["input_ids"]])
        metrics = run.train(trainer, checkpoint, params.evaluations, on_log)
    run.finish(trainer, tokenizer, out)
    return metrics
