"""Training rows as TRL takes them: chat lists."""

from collections.abc import Iterable
from typing import Any

from qedistill.feedback import Pair
from qedistill.params import Collection, Student
from qedistill.prompts import Messages, answer
from qedistill.prompts import student as student_messages
from qedistill.text import Queries
from qedistill.words import cut_words

FULL_MAX_WORDS = 60  # what the full prompt asks for where a target is not cut


def student_prompt(query: str, student: Student, collection: Collection, trained: bool = True) -> Messages:
    """What the student is asked, in training and at inference alike.

    One not `trained`, the base, has to be told what is wanted: the bare query gives way to the short prompt.
    """
    prompt = "short" if student.prompt == "query" and not trained else student.prompt
    return student_messages(query, prompt, collection, student.max_words or FULL_MAX_WORDS)


def sft_rows(
    queries: Queries, answers: Iterable[dict[str, Any]], samples: int, student: Student, collection: Collection
) -> list[dict[str, Messages]]:
    """{"prompt", "completion"} of every answer to one of the queries whose sample is below `samples`."""
    return [
        {
            "prompt": student_prompt(queries[record["query_id"]], student, collection),
            "completion": answer(cut_words(record["text"], student.max_words)),
        }
        for record in answers
        if record["query_id"] in queries and record["sample"] < samples
    ]


def dpo_rows(queries: Queries, pairs: list[Pair], student: Student, collection: Collection) -> list[dict[str, Any]]:
    """Pairs as written to data/pairs: {"query_id", "prompt", "chosen", "rejected"} and, for an audit, each side's score
    and candidate (`chosen_score`, `chosen_from`: style and sample)."""
    return [
        {
            "query_id": pair.chosen["query_id"],
            "prompt": student_prompt(queries[pair.chosen["query_id"]], student, collection),
            "chosen": answer(pair.chosen["text"]),
            "rejected": answer(pair.rejected["text"]),
            "chosen_score": pair.chosen["ndcg@10"],
            "rejected_score": pair.rejected["ndcg@10"],
            "chosen_from": f"{pair.chosen['style']}/{pair.chosen['sample']}",
            "rejected_from": f"{pair.rejected['style']}/{pair.rejected['sample']}",
        }
        for pair in pairs
    ]
