"""Batched expansion against transformers' `generate`, one query and one sample at a time. Needs models/sft."""

import time
from typing import Any

import click

from qedistill.generation.local import generate
from qedistill.layout import MODELS, queries
from qedistill.params import load_params
from qedistill.text import read_queries
from qedistill.training.data import student_prompt
from qedistill.training.model import load_student


@click.command(help=__doc__)
@click.option("--queries", "count", default=64, show_default=True, help="Queries to expand.")
@click.option("--alone", default=24, show_default=True, help="How many of them also one at a time.")
def main(count: int, alone: int) -> None:
    import torch

    params = load_params()
    wanted = params.generation
    model: Any
    model, tokenizer = load_student(MODELS / "sft", MODELS / "base")
    texts = dict(list(read_queries(queries("train")).items())[:count])
    prompts = {i: student_prompt(text, params.student, params.collection) for i, text in texts.items()}
    generate(model, tokenizer, prompts, 2, wanted.temperature, 1, wanted.batch_size, params.seed)  # warm up

    start = time.perf_counter()
    answers = generate(
        model, tokenizer, prompts, wanted.max_new_tokens, wanted.temperature, wanted.samples, wanted.batch_size, params.seed
    )  # fmt: skip
    batched = sum(answer["completion_tokens"] for answer in answers) / (time.perf_counter() - start)

    sampling = {"do_sample": True, "temperature": wanted.temperature, "top_k": 0} if wanted.temperature else {}
    tokens, start = 0, time.perf_counter()
    for prompt in list(prompts.values())[:alone]:
        ids: Any = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**ids.to(model.device), max_new_tokens=wanted.max_new_tokens, **sampling)
        tokens += output.shape[1] - ids["input_ids"].shape[1]
    single = tokens / (time.perf_counter() - start)
    print(f"{count} queries x {wanted.samples} samples: {batched:.0f} tokens/s; one at a time: {single:.0f}")
    print(f"ratio {batched / single:.1f}")


if __name__ == "__main__":
    main()
