"""Answers from a model on this machine."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qedistill.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt = list[dict[str, str]]  # chat messages


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Mapping[str, Prompt],
    max_new_tokens: int,
    temperature: float,
    samples: int,
    batch_size: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Answer each prompt `samples` times.

    Greedy at temperature 0 (samples are then all the same); above it, the same seed, prompts and batch size give
    the same answers on the same machine.

    Args:
        prompts: query id -> chat messages.
        max_new_tokens: length of an answer, at most; it ends earlier with the model's end token.

    Returns:
        One record a query and sample, in the order of `prompts`, then of samples: `query_id`, `sample`, `text` (white
        space as single spaces), `prompt_tokens`, `completion_tokens` (with the end token), `seconds` (the batch's wall
        time, shared equally among its rows).
    """
    import torch

    texts = [tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts.values()]
    # The template has set the special tokens already.
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    rows = [(query, sample, ids) for query, ids in zip(prompts, encoded, strict=True) for sample in range(samples)]
    # Rows of like length share a batch, so that little of it is padding; the longest come first, so that memory,
    # if it fails, fails at once.
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row][2]))
    records: list[dict[str, Any]] = [{} for _ in rows]
    devices = [model.device] if model.device.type == "cuda" else []
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for batch in track(batches, "Expanding"):
            began = time.perf_counter()
            answers = _answer(model, tokenizer, [rows[row][2] for row in batch], max_new_tokens, temperature)
            seconds = (time.perf_counter() - began) / len(batch)
            for row, answer in zip(batch, answers, strict=True):
                query, sample, ids = rows[row]
                records[row] = {
                    "query_id": query,
                    "sample": sample,
                    "text": " ".join(str(tokenizer.decode(answer, skip_special_tokens=True)).split()),
                    "prompt_tokens": len(ids),
                    "completion_tokens": len(answer),
                    "seconds": seconds,
                }
    return records


def _answer(model: Any, tokenizer: Any, prompts: list[list[int]], length: int, temperature: float) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with the first end token."""
    import torch
    from transformers import GenerationConfig

    # Left padding: a decoder goes on from the last position, which must be the prompt's.
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    stops = model.generation_config.eos_token_id
    # The model's own top-k and top-p would cut the distribution that `temperature` alone is meant to shape.
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    config = GenerationConfig(
        max_new_tokens=length,
        do_sample=temperature > 0,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    with torch.inference_mode():
        output = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=config
        )
    ends = {stops} if isinstance(stops, int) else set(stops or ())
    return [_until(tokens, ends) for tokens in output[:, batch["input_ids"].shape[1] :].tolist()]


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    first = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: first + 1]
