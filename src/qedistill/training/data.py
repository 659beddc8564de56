"""Training rows as TRL takes them: chat lists."""

from collections.abc import Iterable
from typing import Any

from qedistill.feedback import Pair
from qedistill.params import Collection, Student
from qedistill.prompts import Messages, answer
from qedistill.prompts import student as student_messages
from qedistill.tally import Tally
from qedistill.text import Queries
from qedistill.words import cut_words, says_something

# What makes more candidates of a query, by `pairs.candidates`.
MORE_CANDIDATES = {
    "teacher": "teacher.samples",
    "student": "feedback.samples or feedback.temperature",
    "both": "feedback.samples or teacher.samples",
}
FULL_MAX_WORDS = 60  # what the full prompt asks for where a target is not cut


def student_prompt(query: str, student: Student, collection: Collection, trained: bool = True) -> Messages:
    """What the student is asked, in training and at inference alike.

    One not `trained`, the base, has to be told what is wanted: the bare query gives way to the short prompt.
    """
    prompt = "short" if student.prompt == "query" and not trained else student.prompt
    return student_messages(query, prompt, collection, student.max_words or FULL_MAX_WORDS)


def sft_rows(
    queries: Queries,
    answers: Iterable[dict[str, Any]],
    samples: int,
    student: Student,
    collection: Collection,
    tally: Tally | None = None,
) -> list[dict[str, Messages]]:
    """{"prompt", "completion"} of every answer to one of the queries whose sample is below `samples`.

    Answers that say nothing are left out; the tally counts them, and queries that are left without an answer.
    """
    tally = tally or Tally()
    rows, answered = [], set()
    for record in answers:
        query_id = record["query_id"]
        if query_id not in queries or record["sample"] >= samples:
            continue
        text = cut_words(record["text"], student.max_words)
        if not says_something(text):
            tally.add("answers left out: without words", query_id)
            continue
        answered.add(query_id)
        rows.append({"prompt": student_prompt(queries[query_id], student, collection), "completion": answer(text)})
    for query_id in (query_id for query_id in queries if query_id not in answered):
        tally.add("queries without a row: none of their answers is there and of use", query_id)
    return rows


def dpo_rows(
    queries: Queries, pairs: list[Pair], student: Student, collection: Collection, tally: Tally | None = None
) -> list[dict[str, Any]]:
    """Pairs as written to data/pairs: {"query_id", "prompt", "chosen", "rejected"} and, for an audit, each side's score
    and candidate (`chosen_score`, `chosen_from`: style and sample).

    Pairs that teach nothing good are left out and counted: the chosen says nothing, or both say the same. A rejected
    that says nothing is a fault like others.
    """
    tally = tally or Tally()
    rows = []
    for pair in pairs:
        query_id, chosen, rejected = pair.chosen["query_id"], pair.chosen["text"], pair.rejected["text"]
        if not says_something(chosen):
            tally.add("pairs left out: the chosen is without words", query_id)
            continue
        if " ".join(chosen.split()) == " ".join(rejected.split()):
            tally.add("pairs left out: both sides say the same", query_id)
            continue
        rows.append(
            {
                "query_id": query_id,
                "prompt": student_prompt(queries[query_id], student, collection),
                "chosen": answer(chosen),
                "rejected": answer(rejected),
                "chosen_score": pair.chosen["ndcg@10"],
                "rejected_score": pair.rejected["ndcg@10"],
                "chosen_from": f"{pair.chosen['style']}/{pair.chosen['sample']}",
                "rejected_from": f"{pair.rejected['style']}/{pair.rejected['sample']}",
            }
        )
    return rows
