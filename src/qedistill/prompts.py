"""What teacher and student are asked, as chat messages; one set of templates a language."""

import random
from dataclasses import dataclass

from qedistill.errors import UserError
from qedistill.params import Collection
from qedistill.text import Qrels, Queries, cut_words

Messages = list[dict[str, str]]
STYLES = ("zero_shot", "few_shot")


@dataclass(frozen=True)
class Templates:
    instruction: str  # {document}, {max_words}
    query: str  # {query}
    passage: str  # {passage}; empty where the model goes on
    short: str  # system message of the short student prompt


TEMPLATES = {
    "en": Templates(
        "Write {document} that answers the query.\n"
        "Use the exact terms such a text would use. At most {max_words} words; output only the passage.",
        "Query: {query}",
        "Passage: {passage}",
        "Write the passage that answers the query.",
    ),
    "zh": Templates(
        "请写{document}，回答下面的查询。\n使用这类文本会用的确切术语。最多{max_words}个词；只输出该段落。",
        "查询：{query}",
        "段落：{passage}",
        "写出回答该查询的段落。",
    ),
}


@dataclass(frozen=True)
class Exemplar:
    """A training query with the passage that a relevant document starts with."""

    query_id: str
    query: str
    doc_id: str
    passage: str


def zero_shot(query: str, collection: Collection, max_words: int) -> Messages:
    """Instruction and query."""
    return few_shot(query, [], collection, max_words)


def few_shot(query: str, exemplars: list[Exemplar], collection: Collection, max_words: int) -> Messages:
    """Instruction, exemplars (query → passage, separated by blank lines) and query, in one user message."""
    t = _templates(collection.language)
    blocks = [_block(t, exemplar.query, exemplar.passage) for exemplar in exemplars]
    instruction = t.instruction.format(document=collection.document, max_words=max_words)
    return [{"role": "user", "content": "\n\n".join([instruction, *blocks, _block(t, query, "")])}]


def student(query: str, prompt: str, collection: Collection, max_words: int) -> Messages:
    """The student's prompt, without exemplars: `short` (a few words) or `full` (the teacher's zero-shot prompt)."""
    if prompt == "full":
        return zero_shot(query, collection, max_words)
    return [{"role": "system", "content": _templates(collection.language).short}, {"role": "user", "content": query}]


def answer(text: str) -> Messages:
    """An expansion as the assistant's turn."""
    return [{"role": "assistant", "content": text}]


def choose_exemplars(
    queries: Queries, qrels: Qrels, documents: dict[str, str], k: int, ids: list[str] | None, max_words: int, seed: int
) -> list[Exemplar]:
    """k exemplars of the training queries: those of `ids`, else k by the seed; each with the start of its document of
    the highest grade (the first of them in the judgments).

    Raises:
        UserError: an id is no training query, or fewer than k queries have a relevant document in the collection.
    """
    if unknown := sorted(set(ids or ()) - set(queries)):
        raise UserError(f"teacher.exemplars.ids: {', '.join(unknown)} are no training queries")
    best = {
        query_id: max(found, key=found.__getitem__)
        for query_id in queries
        if (found := {d: g for d, g in qrels[query_id].items() if g > 0 and documents.get(d, "").strip()})
    }
    chosen = ids or random.Random(seed).sample(sorted(best), min(k, len(best)))
    usable = [query_id for query_id in chosen if query_id in best]
    if len(usable) < k:
        raise UserError(
            f"teacher.exemplars.k: only {len(usable)} of {k} exemplars have a relevant document in the collection"
        )
    return [Exemplar(i, queries[i], best[i], cut_words(documents[best[i]], max_words)) for i in usable]


def _templates(language: str) -> Templates:
    try:
        return TEMPLATES[language]
    except KeyError:
        raise UserError(
            f"collection.language: no prompt templates for {language!r} (there are: {', '.join(TEMPLATES)}); "
            "add them to TEMPLATES in src/qedistill/prompts.py"
        ) from None


def _block(templates: Templates, query: str, passage: str) -> str:
    return f"{templates.query.format(query=query)}\n{templates.passage.format(passage=passage).rstrip()}"
