"""SFT and DPO against the stock TRL script: the same rows, LoRA and batch size, TRL's defaults in all else.

Needs the data and pairs of `dvc repro`. Times are of the whole call: loading, tokenising, reference, steps.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from qedistill.layout import MODELS, PAIRS, TEACHER, queries
from qedistill.params import Params, load_params
from qedistill.prompts import STYLES
from qedistill.text import read_jsonl, read_queries
from qedistill.training.model import pick_device


@click.command(help=__doc__)
@click.argument("stage", type=click.Choice(["sft", "dpo"]))
@click.option("--rows", default=160, show_default=True, help="Answers, or pairs, to train on once.")
def main(stage: str, rows: int) -> None:
    params = load_params()
    data = (sft_rows if stage == "sft" else dpo_rows)(params)[:rows]
    with tempfile.TemporaryDirectory() as folder:
        ours, tokens = timed(ours_sft if stage == "sft" else ours_dpo, data, params, Path(folder))
        stock, _ = timed(stock_sft if stage == "sft" else stock_dpo, data, params, Path(folder))
    print(
        f"{stage}, {len(data)} rows, {tokens} tokens: ours {tokens / ours:.0f} tokens/s, stock TRL {tokens / stock:.0f}"
    )
    print(f"ratio {stock / ours:.2f}")


def timed(train: Any, data: list[Any], params: Params, folder: Path) -> tuple[float, int]:
    start = time.perf_counter()
    tokens = train(data, params, folder)
    return time.perf_counter() - start, tokens


def sft_rows(params: Params) -> list[Any]:
    from qedistill.training.data import sft_rows

    answers = [record for style in STYLES for record in read_jsonl(TEACHER / f"{style}.jsonl")]
    return sft_rows(read_queries(queries("train")), answers, params.sft.samples, params.student, params.collection)


def dpo_rows(params: Params) -> list[Any]:
    return [{k: pair[k] for k in ("prompt", "chosen", "rejected")} for pair in read_jsonl(PAIRS / "train.jsonl")]


def ours_sft(data: list[Any], params: Params, folder: Path) -> int:
    from qedistill.training.sft import train_sft

    once = params.sft.model_copy(update={"epochs": 1.0, "evaluations": 0})
    metrics = train_sft(MODELS / "base", folder / "ours", data, [], once, params.seed, folder / "work")
    return int(metrics["tokens"])


def ours_dpo(data: list[Any], params: Params, folder: Path) -> int:
    from qedistill.training.dpo import train_dpo

    once = params.dpo.model_copy(update={"epochs": 1.0, "evaluations": 0})
    out = folder / "ours"
    metrics = train_dpo(MODELS / "base", MODELS / "sft", out, data, [], once, params.seed, folder / "work")
    return int(metrics["tokens"])


def stock_arguments(folder: Path, batch_size: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "stock"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch_size,
        "use_cpu": pick_device() == "cpu",
        "report_to": "none",
    }


def stock_sft(data: list[Any], params: Params, folder: Path) -> int:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    lora = params.sft.lora
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM")  # type: ignore[arg-type]
    SFTTrainer(
        model=str(MODELS / "base"),
        args=SFTConfig(**stock_arguments(folder, params.sft.batch_size)),
        train_dataset=Dataset.from_list(data),
        peft_config=config,
    ).train()
    return 0


def stock_dpo(data: list[Any], params: Params, folder: Path) -> int:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    base = AutoModelForCausalLM.from_pretrained(MODELS / "base")
    DPOTrainer(
        model=PeftModel.from_pretrained(base, MODELS / "sft", is_trainable=True),
        args=DPOConfig(**stock_arguments(folder, params.dpo.batch_size)),
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(MODELS / "sft"),
    ).train()
    return 0


if __name__ == "__main__":
    main()
