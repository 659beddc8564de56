"""Answers from a model on this machine."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qedistill.chat import encode
from qedistill.progress import track
from qedistill.prompts import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Mapping[str, Messages],
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
        One record a query and sample, in the order of `prompts`, then of samples: `query_id`, `sample`, `text` (as
        written), `prompt_tokens`, `completion_tokens` (with the end token).
    """
    import torch

    rows = list(zip(prompts, encode(tokenizer, prompts.values()), strict=True))
    # Prompts of like length share a batch, so that little of it is padding; the longest come first, so that memory,
    # if it fails, fails at once.
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row][1]))
    answered: list[list[dict[str, Any]]] = [[] for _ in rows]
    devices = [model.device] if model.device.type == "cuda" else []
    width = max(1, batch_size // samples)
    batches = [order[start : start + width] for start in range(0, len(order), width)]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for batch in track(batches, "Expanding"):
            answers = _answer(model, tokenizer, [rows[row][1] for row in batch], max_new_tokens, temperature, samples)
            for position, answer in enumerate(answers):
                query, ids = rows[batch[position // samples]]
                answered[batch[position // samples]].append(
                    {
                        "query_id": query,
                        "sample": position % samples,
                        "text": str(tokenizer.decode(answer, skip_special_tokens=True)),
                        "prompt_tokens": len(ids),
                        "completion_tokens": len(answer),
                    }
                )
    return [record for group in answered for record in group]


def _answer(
    model: Any, tokenizer: Any, prompts: list[list[int]], length: int, temperature: float, samples: int
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with the first end token; `samples` in a row for each prompt."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    # Left padding: a decoder goes on from the last position, which must be the prompt's.
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    stops = model.generation_config.eos_token_id
    config = GenerationConfig(
        max_new_tokens=length, do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    with torch.inference_mode():
        # All samples of a prompt go on from one reading of it, all but its last token.
        cache = None
        if ids.shape[1] > 1:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]
            cache = model.base_model(
                input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions, use_cache=True
            ).past_key_values
            cache.batch_repeat_interleave(samples)
        output = model.generate(
            input_ids=ids.repeat_interleave(samples, 0),
            attention_mask=mask.repeat_interleave(samples, 0),
            past_key_values=cache,
            generation_config=config,
            logits_processor=LogitsProcessorList([_sampler(temperature)] if temperature > 0 else []),
        )
    ends = {stops} if isinstance(stops, int) else set(stops or ())
    return [_until(tokens, ends) for tokens in output[:, ids.shape[1] :].tolist()]


def _sampler(temperature: float) -> Any:
    """A logits processor that draws the token, so that greedy search must take it.

    transformers draws with an exponential deviate for every word of the vocabulary, one after the other on a CPU: as
    long as the rest of a small model's step. This draws one uniform deviate a row (inverse transform sampling).
    """
    import torch
    from transformers import LogitsProcessor

    class Sampler(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            cumulated = (scores.float() / temperature).softmax(-1).cumsum(-1)
            # Of the sum as it came out, not of 1: rounding must not put a draw past the last token.
            drawn = torch.rand(len(scores), 1, device=scores.device) * cumulated[:, -1:]
            token = torch.searchsorted(cumulated, drawn, right=True).clamp(max=scores.shape[-1] - 1)
            return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)

    return Sampler()


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    first = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: first + 1]
