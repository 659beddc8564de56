"""What expanding a query costs: measured by one protocol for every student; as far as it was recorded, for a teacher."""

import platform
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qedistill.generation.request import Usage
from qedistill.params import Params, Prices
from qedistill.tally import Tally
from qedistill.text import Queries

MB = 1e6


def measure(student: Path, base: Path | None, queries: Queries, params: Params) -> dict[str, Any]:
    """What a student's expansions cost on this machine, from text to text, `generation.samples` of each query.

    Latency: `cost.queries` queries drawn at random, one at a time. Throughput: one full batch of each of
    `cost.batch_sizes`, in ascending order; the fastest counts. Memory is the process's peak up
    to then (on a GPU, PyTorch's), so call this in a fresh process.

    Args:
        student: folder of a plain model, or of an adapter on that in `base`.
        queries: what to draw from.

    Returns:
        queries, samples; prompt_tokens_per_query, completion_tokens_per_query (all samples), latency_p50_seconds,
        latency_p95_seconds of the queries asked one at a time; queries_per_second, batch_size and peak_memory_mb of
        the fastest batch, and under `batches` those of each; parameters; disk_mb (base and adapter; MB = 10^6 bytes);
        price_per_1000_queries at the fastest batch (None without `cost.price_per_hour`); device, dtype, threads.
    """
    import torch

    from qedistill.generation.local import generate
    from qedistill.generation.student import make_prompts
    from qedistill.training.model import load_student

    model, tokenizer = load_student(student, base)
    wanted = params.generation
    ids = sorted(queries)
    random.Random(params.seed).shuffle(ids)
    prompts = make_prompts(student, base, queries, params, Tally())

    def expand(count: int, first: int = 0, length: int = wanted.max_new_tokens) -> tuple[list[dict[str, Any]], float]:
        """Answers to `count` queries in one batch, and its seconds; the queries come round again where they are few."""
        some = {f"{n}": prompts[ids[n % len(ids)]] for n in range(first, first + count)}
        start = time.perf_counter()
        answers = generate(
            model, tokenizer, some, length, wanted.temperature, wanted.samples, count * wanted.samples, params.seed
        )
        return answers, time.perf_counter() - start

    expand(1)
    alone = [expand(1, n) for n in range(params.cost.queries)]
    answers = [answer for found, _ in alone for answer in found]
    seconds = [taken for _, taken in alone]
    batches = {}
    for size in sorted({max(1, size // wanted.samples) * wanted.samples for size in params.cost.batch_sizes}):
        count = size // wanted.samples
        if model.device.type == "cuda":  # whose first batch of a shape is slow
            expand(count, length=2)
        batches[size] = {"queries_per_second": count / expand(count)[1], "peak_memory_mb": _peak_memory() / MB}
    best = max(batches, key=lambda size: batches[size]["queries_per_second"])
    folders = {student, base} - {None}
    return {
        "queries": len(alone),
        "samples": wanted.samples,
        "prompt_tokens_per_query": _mean([a["prompt_tokens"] for a in answers if a["sample"] == 0]),
        "completion_tokens_per_query": sum(a["completion_tokens"] for a in answers) / len(alone),
        "latency_p50_seconds": _percentile(seconds, 50),
        "latency_p95_seconds": _percentile(seconds, 95),
        **batches[best],
        "batch_size": best,
        "batches": {str(size): figures for size, figures in batches.items()},
        "parameters": model.num_parameters(),
        "disk_mb": sum(file.stat().st_size for f in folders if f for file in f.rglob("*") if file.is_file()) / MB,
        "price_per_1000_queries": _rent(params.cost.price_per_hour, batches[best]["queries_per_second"]),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else _processor(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def of_teacher(records: Sequence[dict[str, Any]], params: Params, seconds: float | None = None) -> dict[str, Any]:
    """What a teacher's expansions cost, one answer a query, as its records tell: the same keys, None where unknown.

    An API's records tell the seconds of a call, with others under way at the same time. Prices are `teacher.api.prices`,
    no token taken as cached.

    Args:
        seconds: what a local teacher took for all of them.
    """
    teacher = params.teacher
    prompt, completion, calls = (
        [value for record in records if (value := record.get(key))]
        for key in ("prompt_tokens", "completion_tokens", "seconds")
    )
    usage = Usage(sum(prompt), sum(completion)) if len(prompt) == len(completion) == len(records) > 0 else None
    per_second = len(records) / seconds if seconds else None
    return {
        "queries": len({record["query_id"] for record in records}),
        "samples": 1,
        "prompt_tokens_per_query": _mean(prompt),
        "completion_tokens_per_query": _mean(completion),
        "latency_p50_seconds": _percentile(calls, 50),
        "latency_p95_seconds": _percentile(calls, 95),
        "queries_per_second": per_second,
        "peak_memory_mb": None,
        "batch_size": teacher.batch_size if teacher.generator == "local" else None,
        "parameters": None,
        "disk_mb": None,
        "price_per_1000_queries": _bill(usage, len(records), teacher.api.prices)
        if teacher.generator != "local"
        else _rent(params.cost.price_per_hour, per_second),
    }


def _rent(per_hour: float | None, queries_per_second: float | None) -> float | None:
    """The price of the machine for 1,000 queries."""
    return per_hour / 3600 * 1000 / queries_per_second if per_hour is not None and queries_per_second else None


def _bill(usage: Usage | None, answers: int, prices: Prices | None) -> float | None:
    """What a vendor asks for 1,000 queries, by the tokens of some answers."""
    from qedistill.generation.api import cost

    return cost(usage, prices) / answers * 1000 if usage and prices else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percentile(values: Sequence[float], percent: int) -> float | None:
    import numpy as np

    return float(np.percentile(values, percent)) if values else None


def _peak_memory() -> int:
    """Bytes: PyTorch's on a GPU, else the resident set of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    """The CPU's name, as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
