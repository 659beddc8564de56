"""What SFT and DPO share: TRL's arguments, batches of like length, resuming after a kill, metrics and curve."""

import hashlib
import importlib.metadata
import json
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from qedistill.chat import encode_turns
from qedistill.errors import UserError
from qedistill.params import Training
from qedistill.tally import Tally
from qedistill.text import write_json
from qedistill.training import launch
from qedistill.training.model import pick_device, pick_dtype, save_adapter, sha256_of
from qedistill.words import one_line

OnLog = Callable[[dict[str, Any]], None]

_DIGEST = "inputs.json"
_SEAL = "whole.json"  # in a checkpoint: file → SHA-256, written when all the others are
_POINTS = 100  # of a training curve, at most
_SHOWN = 40  # characters of a query that names a row
_POOL = 8  # batches whose rows are sorted by length together


def arguments(params: Training, seed: int, work: Path, validate: bool, keep_best: bool) -> dict[str, Any]:
    """The keyword arguments that SFTConfig and DPOConfig have in common.

    `params.batch_size` rows make a batch whatever the number of processes: each takes its share.

    Raises:
        UserError: the batch cannot be shared equally.
    """
    import torch

    share, rest = divmod(params.batch_size, launch.processes())
    if rest:
        raise UserError(f"batch_size is {params.batch_size}: no multiple of {launch.processes()} processes")
    cpu = pick_device() == "cpu"
    strategy = "steps" if validate else "no"
    return {
        "output_dir": str(work),
        "seed": seed,
        "num_train_epochs": params.epochs,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": params.scheduler,
        "warmup_steps": params.warmup_ratio,  # below 1 it is a share of the steps
        "per_device_train_batch_size": share,
        "per_device_eval_batch_size": share,
        "gradient_accumulation_steps": params.gradient_accumulation,
        "max_length": params.max_length,
        "eval_strategy": strategy,
        "save_strategy": "steps",
        "load_best_model_at_end": validate and keep_best,
        "logging_nan_inf_filter": False,  # it would log the mean of the other losses; `_stop_at_nan` stops
        "use_cpu": cpu,
        "bf16": pick_dtype() == torch.bfloat16,
        # It trades time for memory, and memory is what a GPU lacks.
        "activation_checkpointing": not cpu,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": not cpu,
        "report_to": "none",
    }


def checkpoint(args: Any, inputs: dict[str, Any]) -> str | None:
    """`resume_point` of a trainer's arguments, by the main process first, so that the others find the folder ready."""
    with args.main_process_first(local=False):
        return resume_point(Path(args.output_dir), inputs)


def resume_point(work: Path, inputs: dict[str, Any]) -> str | None:
    """Make `work` ready for a run over `inputs` (JSON): the last whole checkpoint of the same run, or an empty folder.

    A checkpoint that a kill left half-written, or that was damaged since, is removed, and that is told; the run then
    goes on from the one before.
    """
    from transformers.trainer_utils import get_last_checkpoint

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "peft")}
    digest = hashlib.sha256(json.dumps([inputs, versions, launch.strategy()], sort_keys=True).encode()).hexdigest()
    known = work / _DIGEST
    if not known.exists() or known.read_text(encoding="utf-8", errors="replace").strip() != json.dumps(digest):
        shutil.rmtree(work, ignore_errors=True)
        write_json(known, digest)
    removed = []
    while (last := get_last_checkpoint(str(work))) and not _whole(Path(last)):
        shutil.rmtree(last)
        removed.append(Path(last).name)
    if removed:
        start = f"goes on from {Path(last).name}" if last else "starts afresh"
        click.echo(f"{work}: removed as damaged or half-written: {', '.join(removed)}; training {start}", err=True)
    return last


def _whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's files are those that were written, and so are those of the best one, which it refers to."""
    try:
        sealed = json.loads((checkpoint / _SEAL).read_text(encoding="utf-8"))
        if sealed != _digests(checkpoint):
            return False
        best = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
    except (OSError, ValueError):
        return False
    return best is None or Path(best).name == checkpoint.name or _whole(checkpoint.parent / Path(best).name)


def seal(checkpoint: Path) -> None:
    """Note what a checkpoint holds, now that it is written."""
    (checkpoint / _SEAL).write_text(json.dumps(_digests(checkpoint)), encoding="utf-8")


def _digests(checkpoint: Path) -> dict[str, str]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != _SEAL)
    return {path.relative_to(checkpoint).as_posix(): sha256_of(path) for path in files}


def fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change of a model's files: hashing gigabytes would delay every start."""
    return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())


def encode_rows(
    rows: list[dict[str, Any]], tokenizer: Any, max_length: int, name: str, tally: Tally, split: str = "training"
) -> list[dict[str, list[int]]]:
    """Conversational rows as tokens: `prompt_ids`, and `completion_ids` or `chosen_ids` and `rejected_ids`.

    Rows whose prompt leaves no room for an answer are left out, as nothing can be learnt from them; answers are cut to
    `max_length` with their prompt, and then show no end of a turn.

    Args:
        name: of the parameters, `sft` or `dpo`, and `split` of the rows, for the tally and errors.

    Raises:
        UserError: there are no training rows, or no prompt of theirs leaves room.
    """
    if split == "training" and not rows:
        raise UserError(f"{name}: there is nothing to train on; look at the stages before it")
    kept, shortest = [], math.inf
    lost: Counter[tuple[str, str]] = Counter()  # reason and query: several rows share one
    for row in rows:
        sides = [side for side in ("completion", "chosen", "rejected") if side in row]
        prompt, answers = encode_turns(tokenizer, row["prompt"], [row[side] for side in sides])
        shortest = min(shortest, len(prompt))
        query, room = one_line(row["prompt"][-1]["content"])[:_SHOWN], max_length - len(prompt)
        if room <= 0:
            lost[f"{split} rows left out: the prompt alone fills {name}.max_length", query] += 1
            continue
        if any(len(ids) > room for ids in answers):
            lost[f"{split} rows cut before the end of the answer: longer than {name}.max_length", query] += 1
        kept.append(
            {"prompt_ids": prompt} | {f"{side}_ids": ids[:room] for side, ids in zip(sides, answers, strict=True)}
        )
    for (reason, query), count in lost.items():
        tally.add(reason, query, count)
    if split == "training" and not kept:
        raise UserError(f"{name}.max_length is {max_length}, but the shortest prompt alone has {shortest} tokens")
    return kept


def by_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by length, so that little of a batch is padding where they are taken in order."""
    return sorted(rows, key=lambda row: len(str(row)))


def shared(rows: Any, args: Any, name: str) -> Any:
    """A dataset in a file of the checkpoint folder, where several processes train.

    TRL has the main process cache a reference's scores beside the dataset's file; one in memory caches in a folder
    that no other process knows.
    """
    from datasets import load_from_disk

    if args.world_size == 1:
        return rows
    folder = Path(args.output_dir) / f"rows-{name}"
    with args.main_process_first(local=False):
        if args.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            rows.save_to_disk(folder)
    return load_from_disk(str(folder))


def length_order(lengths: list[int], batch: int, seed: int, epoch: int) -> list[int]:
    """The rows of an epoch, shuffled, so that each batch holds rows of like length; a short batch comes last.

    Seeded by number, not by the state of a global generator: a resumed run sees the rest of the very same order.
    Trainer's own "group_by_length" does not, and serves the long batches of each group first.
    """
    generator = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch * _POOL):
        pool = sorted(order[start : start + batch * _POOL], key=lambda row: lengths[row])
        batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    short = batches.pop() if len(batches[-1]) < batch else []
    generator.shuffle(batches)
    return [row for group in [*batches, short] for row in group]


def by_length(trainer: Any, lengths: list[int]) -> None:
    """Have a trainer take its training rows in `length_order`.

    Where several processes train, accelerate deals this one order out: consecutive parts of a batch, one a process.
    A short last batch it fills up with the first rows of the epoch.
    """
    from torch.utils.data import Sampler

    batch = trainer.args.train_batch_size * trainer.args.world_size

    class ByLength(Sampler[int]):
        def __len__(self) -> int:
            return len(lengths)

        def __iter__(self) -> Iterator[int]:
            epoch = int((trainer.state.epoch or 0) + 1e-6)  # a fraction, of rounded steps
            return iter(length_order(lengths, batch, trainer.args.seed, epoch))

    trainer._get_train_sampler = lambda dataset=None: ByLength()


@contextmanager
def native_head() -> Iterator[None]:
    """On a CPU, have TRL's fused LM head score the labels alone, by PyTorch's own cross entropy.

    Off Triton, TRL scores every position of prompt and padding too, folds the vocabulary in a dozen elementwise
    passes a tile and multiplies the backward's tiles in float32: a third of an SFT step of SmolLM2. A GPU keeps TRL's
    kernel. Losses are the same but for rounding. The entropy TRL would log is not computed.
    """
    from trl.trainer import utils

    ours = {"_use_triton": lambda device: True, "_ChunkedLogProbFunction": _NativeHead}
    if pick_device() != "cpu" or not all(hasattr(utils, name) for name in ours):
        yield  # another release of TRL: slower, not wrong
        return
    theirs = {name: getattr(utils, name) for name in ours}
    try:
        for name, value in ours.items():
            setattr(utils, name, value)
        yield
    finally:
        for name, value in theirs.items():
            setattr(utils, name, value)


class _NativeHead:
    """Stands in for `trl.kernels.ChunkedLogProbFunction`: the same arguments, the same five outputs."""

    @staticmethod
    def apply(
        hidden: Any,
        weight: Any,
        bias: Any,
        targets: Any,
        temperature: float,
        chunk_size: int,
        softcap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Any, ...]:
        """Log-probabilities of `targets` [N] given `hidden` [N, H]; then entropy (NaN), log of the sum of squared
        probabilities (never asked for here), mean logit and whether the target is the likeliest, [N] each."""
        import torch

        logits = torch.nn.functional.linear(hidden, weight, bias).float() * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        logits = logits / temperature
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        with torch.no_grad():
            mean = logits.mean(-1) if "mean_logits" in outputs else None
            top1 = logits.argmax(-1) == targets if "is_top1" in outputs else None
        return -nll, torch.full_like(nll, torch.nan) if "entropy" in outputs else None, None, mean, top1


def train(
    trainer: Any, checkpoint: str | None, evaluations: int, on_log: OnLog | None, suspects: str
) -> dict[str, Any]:
    """Run a trainer to its end, from a checkpoint or the start.

    Args:
        evaluations: validations and checkpoints, evenly spaced; the last falls on the last step. 0: two checkpoints.
        on_log: called with each log row as it comes.
        suspects: parameters that are likely to blame for a loss that is not finite.

    Returns:
        `train_loss` (mean over the run), `steps`, `tokens` (prompt and completion, no padding), `seconds` (in training
        steps alone, over all resumed parts), `tokens_per_second`; with validation also `eval_loss` (the best) and
        `best_step`; and `curve`: rows that share their keys, `step` first, None where a step has no value.

    Raises:
        UserError: a loss is not finite, or a checkpoint cannot be written.
    """
    from transformers import PrinterCallback, ProgressCallback

    steps = math.ceil(len(trainer.get_train_dataloader()) / trainer.args.gradient_accumulation_steps)
    steps = math.ceil(steps * trainer.args.num_train_epochs)
    trainer.args.eval_steps = trainer.args.save_steps = math.ceil(steps / (evaluations or 2))
    trainer.args.logging_steps = math.ceil(steps / _POINTS)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_quiet_bar())
    trainer.add_callback(_meter(on_log))
    _stop_at_nan(trainer, suspects)
    _seal_checkpoints(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    return _summary(_curve(trainer.state.log_history), trainer.state.global_step)


def _stop_at_nan(trainer: Any, suspects: str) -> None:
    """Have a trainer stop at the first loss that is not finite, of training or validation, and leave no checkpoint."""

    def finite(loss: float, kind: str, step: int) -> None:
        if math.isfinite(loss):
            return
        if trainer.is_world_process_zero():
            shutil.rmtree(trainer.args.output_dir, ignore_errors=True)  # its weights may be lost already
        raise UserError(f"the {kind} loss is {loss} at step {step}: lower {suspects}, and run it again")

    take_step, validate = trainer.training_step, trainer.evaluate

    def training_step(*args: Any, **kwargs: Any) -> Any:
        loss = take_step(*args, **kwargs)
        finite(float(loss), "training", trainer.state.global_step + 1)
        return loss

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        metrics = validate(*args, **kwargs)
        finite(metrics["eval_loss"], "validation", trainer.state.global_step)
        return metrics

    trainer.training_step, trainer.evaluate = training_step, evaluate


def _seal_checkpoints(trainer: Any) -> None:
    """Have a trainer keep the last whole checkpoint and the best one, and none that could not be written whole."""
    write, work = trainer._save_checkpoint, Path(trainer.args.output_dir)

    def save_checkpoint(*args: Any) -> None:
        folder = work / f"checkpoint-{trainer.state.global_step}"
        try:
            write(*args)
            trainer.accelerator.wait_for_everyone()
            if trainer.is_world_process_zero():
                seal(folder)
        except Exception as error:  # safetensors and PyTorch have errors of their own for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            free = shutil.disk_usage(work).free / 1e6
            raise UserError(
                f"{folder}: the checkpoint cannot be written ({one_line(error)[:200]}; {free:.0f} MB are free there): make "
                "room and run it again, and it goes on from the last whole checkpoint"
            ) from error
        if trainer.is_world_process_zero():
            kept = {folder.name, Path(trainer.state.best_model_checkpoint or folder).name}
            for other in work.glob("checkpoint-*"):
                if other.name not in kept:
                    shutil.rmtree(other)

    trainer._save_checkpoint = save_checkpoint


def finish(trainer: Any, tokenizer: Any, out: Path) -> None:
    """Save the adapter and remove the checkpoints, in the main process; the others wait for it.

    Raises:
        UserError: the weights are not finite.
    """
    # Sharded weights are gathered by all processes together.
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    weights = trainer.accelerator.get_state_dict(trainer.model) if sharded else None
    if trainer.is_world_process_zero():
        save_adapter(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out, weights)
    trainer.accelerator.wait_for_everyone()  # a process may still be reading the best checkpoint
    if trainer.is_world_process_zero():
        shutil.rmtree(trainer.args.output_dir)


def _quiet_bar() -> Any:
    from transformers import ProgressCallback

    class QuietBar(ProgressCallback):
        """The trainer's bar, with the loss at its end instead of a printed dict a log."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.training_bar is not None and "loss" in logs:
                self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")

    return QuietBar()


def _meter(on_log: OnLog | None) -> Any:
    from transformers import TrainerCallback

    class Meter(TrainerCallback):
        """Counts seconds and tokens through resumes, by way of the log, which checkpoints carry; then calls on_log."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            last = state.log_history[-1] if state.log_history else {}
            self.seconds, self.tokens = last.get("seconds", 0.0), last.get("num_tokens", 0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds += time.perf_counter() - self.start

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            row = state.log_history[-1]
            if "train_runtime" in row:  # the trainer's own summary, which forgets what came before a resume
                state.log_history.pop()
                return
            tokens = row.pop("eval_num_tokens", None)
            for key in ("entropy", "eval_entropy"):  # `native_head` does not compute it
                row.pop(key, None)
            row["num_tokens"] = int(self.tokens + row.get("num_tokens", tokens or 0))
            row["seconds"] = self.seconds
            if on_log is not None:
                on_log(dict(row))

    return Meter()


def _curve(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a logged step, training and validation side by side; the same keys in every row."""
    dropped = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "total_flos"}
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        row.update({key: value for key, value in entry.items() if key not in dropped})
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    return [{key: row.get(key) for key in keys} for _, row in sorted(rows.items())]


def _summary(curve: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    losses = [row["loss"] for row in curve if row.get("loss") is not None]
    tokens, seconds = curve[-1]["num_tokens"], curve[-1]["seconds"]
    summary = {
        "train_loss": sum(losses) / len(losses),
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
    if validated := [row for row in curve if row.get("eval_loss") is not None]:
        best = min(validated, key=lambda row: row["eval_loss"])
        summary |= {"eval_loss": best["eval_loss"], "best_step": best["step"]}
    return summary | {"curve": curve}
