"""Generators of expansions: recorded answers, and any transformers model."""

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
