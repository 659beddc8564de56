"""Direct preference optimisation: the SFT student learns which expansions retrieve better."""

from pathlib import Path
from typing import Any

from qedistill.params import Dpo
from qedistill.tally import Tally
from qedistill.text import read_json
from qedistill.training import run
from qedistill.training.model import load_student, load_tokenizer, require_positions

Pair = dict[str, Any]  # {"prompt": [messages], "chosen": [messages], "rejected": [messages]}, as TRL takes them


def train_dpo(
    base: Path,
    sft: Path,
    out: Path,
    pairs: list[Pair],
    validation: list[Pair],
    params: Dpo,
    seed: int,
    work: Path,
    on_log: run.OnLog | None = None,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Train the SFT adapter further on pairs; the reference is the SFT student itself.

    The last adapter is kept, not the one of the lowest validation loss: that loss falls with the margin between the
    two rewards, which says little about what the student writes. With `params.sft_weight` the likelihood of the chosen
    counts besides their lead (Pang et al. 2024, arXiv 2404.19733, there called RPO). Where several processes train
    together (`training.launch`), each calls this with the same arguments; the main one writes.

    Args:
        base: folder of the plain model.
        sft: folder of the SFT adapter on it.
        out: folder for the adapter and the tokenizer; not atomic, the caller sees to that.
        pairs, validation: conversational preference rows; other keys are ignored; `validation` may be empty.
        work: folder for checkpoints, as in `train_sft`.
        on_log: called with each log row (`step`, `loss`, `rewards/margins`, `rewards/accuracies`, `rewards/chosen`,
            `rewards/rejected`, `logps/chosen`, `logps/rejected`, ...; a validation's with `eval_` before).
        tally: counts rows that `run.encode_rows` leaves out or cuts; told before training begins.

    Returns:
        As `run.train`, and `reward_margin`, `reward_accuracy` (of the last log; `eval_reward_...` with validation),
        `chosen_tokens`, `rejected_tokens` (mean lengths).

    Raises:
        UserError: no pairs, no prompt leaves room for an answer within `params.max_length`, or that is longer than the
            model; what `run.train` raises.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # it has its tokens

    pairs, validation = _messages_only(pairs), _messages_only(validation if params.evaluations else [])
    inputs = {"base": run.fingerprint(base), "sft": run.fingerprint(sft), "pairs": pairs, "validation": validation}
    inputs |= {"params": params.model_dump(), "seed": seed}
    tally = tally or Tally()
    tokenizer = load_tokenizer(sft)
    require_positions(read_json(base / "config.json"), {"dpo.max_length": params.max_length}, str(base))
    rows = run.encode_rows(run.by_text(pairs), tokenizer, params.max_length, "dpo", tally)
    held_out = run.encode_rows(run.by_text(validation), tokenizer, params.max_length, "dpo", tally, "validation")
    args = DPOConfig(
        beta=params.beta,
        loss_type=[params.loss, "sft"] if params.sft_weight else [params.loss],
        loss_weights=[1.0, params.sft_weight] if params.sft_weight else None,
        precompute_ref_log_probs=True,
        **run.arguments(params, seed, work, validate=bool(held_out), keep_best=False),
    )
    if args.process_index == 0:
        tally.tell()
    checkpoint = run.checkpoint(args, inputs)
    model, tokenizer = load_student(sft, base, trainable=True)
    if args.deepspeed_plugin is None:
        model.to(args.device)  # type: ignore[arg-type]  # TRL scores the reference before FSDP would move the model
    with run.native_head():
        trainer: Any = Trainer(
            model=model,
            args=args,
            train_dataset=run.shared(Dataset.from_list(rows), args, "train"),
            eval_dataset=run.shared(Dataset.from_list(held_out), args, "eval") if held_out else None,
            processing_class=tokenizer,
        )
        # TRL copied the SFT adapter to "ref" and has scored every pair with it. Without the copy, checkpoints hold
        # one adapter; a resumed run makes it anew from the SFT student, not from the checkpoint.
        trainer.model.delete_adapter("ref")
        lengths = [_lengths(row) for row in rows]
        run.by_length(trainer, [prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths])
        metrics = run.train(trainer, checkpoint, params.evaluations, on_log, "dpo.learning_rate or dpo.beta")
    run.finish(trainer, tokenizer, out)
    return metrics | _rewards(metrics["curve"]) | _mean_lengths(lengths)


def _messages_only(pairs: list[Pair]) -> list[Pair]:
    return [{key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in pairs]


def _rewards(curve: list[dict[str, Any]]) -> dict[str, float]:
    rewards = {}
    for prefix in ("", "eval_"):
        for name, key in (("margin", "rewards/margins"), ("accuracy", "rewards/accuracies")):
            if values := [row[prefix + key] for row in curve if row.get(prefix + key) is not None]:
                rewards[f"{prefix}reward_{name}"] = values[-1]
    return rewards


def _lengths(row: dict[str, list[int]]) -> tuple[int, int, int]:
    return len(row["prompt_ids"]), len(row["chosen_ids"]), len(row["rejected_ids"])


def _mean_lengths(lengths: list[tuple[int, int, int]]) -> dict[str, float]:
    _, chosen, rejected = zip(*lengths, strict=True)
    return {"chosen_tokens": sum(chosen) / len(chosen), "rejected_tokens": sum(rejected) / len(rejected)}
