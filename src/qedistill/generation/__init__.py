"""Generators of expansions: recorded answers, and any transformers model."""

import time
from pathlib import Path
from typing import Any

from qedistill.generation.recorded import read_answers
from qedistill.params import Params
from qedistill.prompts import Exemplar, few_shot
from qedistill.text import Queries


def teach(
    style: str, learning: Queries, testing: Queries, exemplars: list[Exemplar], params: Params
) -> list[dict[str, Any]]:
    """The teacher's expansions in one style: `teacher.samples` of each query to learn from, one of each test query.

    Queries that serve as exemplars are left out: they would be shown their own answer.

    Raises:
        UserError: recorded answers are missing or malformed, or the local model cannot be loaded.
    """
    teacher = params.teacher
    shown = {exemplar.query_id for exemplar in exemplars}
    learning = {i: text for i, text in learning.items() if i not in shown}
    samples = dict.fromkeys(testing, 1) | dict.fromkeys(learning, teacher.samples)
    if teacher.generator == "recorded":
        answers = read_answers(Path(teacher.recordings) / f"{style}.jsonl", samples)
    else:
        # Both import PyTorch: seconds that recorded answers do not need.
        from qedistill.generation.local import generate
        from qedistill.training.model import load_student

        model, tokenizer = load_student(Path(str(teacher.model)))
        answers = []
        for asked, count in ((learning, teacher.samples), (testing, 1)):
            prompts = {i: few_shot(text, exemplars, params.collection, teacher.max_words) for i, text in asked.items()}
            answers += generate(
                model,
                tokenizer,
                prompts,
                teacher.max_new_tokens,
                teacher.temperature,
                count,
                teacher.batch_size,
                params.seed,
            )
    model_name = teacher.model or "recorded"
    return [{"query_id": a["query_id"], "style": style, "sample": a["sample"], "text": a["text"], "model": model_name}
            | {key: a[key] for key in ("prompt_tokens", "completion_tokens", "seconds") if key in a} for a in answers]  # fmt: skip


def expand(
    student: Path, base: Path | None, queries: Queries, samples: int, temperature: float, params: Params
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A student's expansions, `samples` of each query at a temperature, and what they cost.

    Args:
        student: folder of a plain model, or of an adapter on that in `base`.

    Returns:
        Records as `generation.local.generate` gives them, with `style` ("student") and `model` (the folder's name); and
        queries, samples, tokens_per_query (completions of all samples together), prompt_tokens_per_query, seconds,
        tokens_per_second (completions).
    """
    from qedistill.generation.local import generate
    from qedistill.training.data import student_prompt
    from qedistill.training.model import load_student

    model, tokenizer = load_student(student, base)
    prompts = {i: student_prompt(text, params.student, params.collection) for i, text in queries.items()}
    wanted = params.generation
    start = time.perf_counter()
    answers = generate(
        model, tokenizer, prompts, wanted.max_new_tokens, temperature, samples, wanted.batch_size, params.seed
    )
    seconds = time.perf_counter() - start
    tokens = sum(answer["completion_tokens"] for answer in answers)
    # A prompt is read once, whatever the number of its samples.
    read = sum(answer["prompt_tokens"] for answer in answers if answer["sample"] == 0)
    return [{"style": "student", "model": student.name} | answer for answer in answers], {
        "queries": len(queries),
        "samples": samples,
        "tokens_per_query": tokens / len(queries),
        "prompt_tokens_per_query": read / len(queries),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
    }
