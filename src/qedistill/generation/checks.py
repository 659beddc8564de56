"""Is an answer an expansion? What is safe to take away is taken away; what is not makes the answer useless."""

import re
from collections.abc import Callable

from qedistill.generation import wrapping
from qedistill.generation.languages import in_language
from qedistill.generation.refusals import is_refusal
from qedistill.words import HAN, clean, count_words, plain, says_something

# Kinds of cleaning and of problems, as the metrics count them.
CLEANED = ("thinking", "marks", "preamble", "label", "wrapper", "query", "exemplar", "note", "cut")
PROBLEMS = ("empty", "refusal", "thinking", "cut", "language", "query")

_ROUNDS = 8  # of wrappings within wrappings
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$|[^\s\w])|[。！？]")
_LAST_WORD = re.compile(rf"[^\s{HAN.pattern[1:]}+$")
_WHOLE_SHARE = 0.5  # of a cut text that must be left once its last, broken sentence is gone


def examine(
    text: str | None, query: str, language: str, cut: bool = False, enough: int | None = None
) -> tuple[str, list[str], str | None]:
    """The expansion in an answer, with white space as single spaces.

    Args:
        text: as the model wrote it; None where it wrote nothing.
        query: what was asked.
        language: of the collection, by ISO 639-1.
        cut: the token limit ended the answer.
        enough: words that were asked for; an answer cut off beyond them lacks nothing.

    Returns:
        The text; what was taken away from it (of `CLEANED`: reasoning, marks of a chat template, a sentence that announces
        it, a label such as "Passage:", a fence, tag, JSON or quotes around the whole, the query repeated before it, further
        exemplars and notes behind it, a sentence broken off by the token limit); and, where the answer is of no use, why
        (of `PROBLEMS`), else None.

    Example:
        >>> examine('Sure! Here is a passage:\\n"Yeast makes dough rise."', "what makes dough rise", "en")
        ('Yeast makes dough rise.', ['preamble', 'wrapper'], None)
    """
    text = clean(text or "").strip()
    cleaned: list[str] = []

    def take_away(kind: str, left: str) -> None:
        nonlocal text
        if left != text and kind not in cleaned:
            cleaned.append(kind)
        text = left

    take_away("thinking", wrapping.without_reasoning(text))
    if cleaned and not text:
        return "", cleaned, "thinking"
    steps: list[tuple[str, Callable[[str], str]]] = [
        ("marks", wrapping.without_marks),
        ("query", lambda rest: wrapping.without_echo(rest, lambda line: plain(line) == plain(query))),
        ("exemplar", wrapping.without_next),
        ("note", wrapping.without_what_follows),
        ("preamble", wrapping.without_preamble),
        ("label", wrapping.without_label),
        ("wrapper", wrapping.without_wrapper),
    ]
    for _ in range(_ROUNDS):  # a label within quotes, quotes behind a label
        before = text
        for kind, without in steps:
            take_away(kind, without(text))
        if text == before:
            break
    if not says_something(text):
        return "", cleaned, "query" if "query" in cleaned else "cut" if cut else "empty"
    if is_refusal(text):
        return " ".join(text.split()), cleaned, "refusal"
    if cut:
        whole = _whole_sentences(text)
        if len(whole) < _WHOLE_SHARE * len(text):
            if enough is None or count_words(text) <= enough:
                return " ".join(text.split()), cleaned, "cut"
            whole = _LAST_WORD.sub("", text) or text  # it may be broken; a Han character never is
        take_away("cut", whole.strip())
    text = " ".join(text.split())
    return text, cleaned, None if in_language(text, language) else "language"


def _whole_sentences(text: str) -> str:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
