"""What of a teacher's answer is kept, and which answers are of no use."""

import pytest

from qedistill.generation.checks import CLEANED, PROBLEMS, examine

ENGLISH = [
    # answer, text, cleaned
    ("list.sort sorts\n  in place.", "list.sort sorts in place.", []),
    ("<think>Let me see.\nHm.</think>\n\nlist.sort sorts.", "list.sort sorts.", ["thinking"]),
    ("Let me see.</think>list.sort sorts.", "list.sort sorts.", ["thinking"]),
    ("Passage: list.sort sorts.", "list.sort sorts.", ["label"]),
    ("**Passage:** list.sort sorts.", "list.sort sorts.", ["label"]),
    ("Here is the passage:\nlist.sort sorts.", "list.sort sorts.", ["label"]),
    ('"list.sort sorts."', "list.sort sorts.", ["quotes"]),
    ('"a" and "b"', '"a" and "b"', []),
    ('"Passage: list.sort sorts."', "list.sort sorts.", ["quotes", "label"]),
    ('Expansion: "list.sort sorts."', "list.sort sorts.", ["label", "quotes"]),
    ("As an AI accelerator, the TPU multiplies.", "As an AI accelerator, the TPU multiplies.", []),
    ("Query: Sort a list!\nPassage: list.sort sorts.", "list.sort sorts.", ["query", "label"]),
    ("Sort a list\nlist.sort sorts.", "list.sort sorts.", ["query"]),
    ("Sort a list with list.sort.", "Sort a list with list.sort.", []),
    ("Sorry() is an exception class.", "Sorry() is an exception class.", []),
    ("42", "42", []),
]


@pytest.mark.parametrize(("answer", "text", "cleaned"), ENGLISH)
def test_what_is_safe_to_take_away_is_taken_away(answer: str, text: str, cleaned: list[str]) -> None:
    assert examine(answer, "sort a list", "en") == (text, cleaned, None)
    assert set(cleaned) <= set(CLEANED)


@pytest.mark.parametrize(
    ("answer", "language", "problem"),
    [
        (None, "en", "empty"),
        (" \n", "en", "empty"),
        ("Passage:", "en", "empty"),
        ('""', "en", "empty"),
        ('Expansion: "…"', "en", "empty"),
        ("---", "en", "empty"),
        ("Passage: I'm sorry, but I can't help.", "en", "refusal"),
        ("I apologize, but I cannot write that.", "en", "refusal"),
        ("Unfortunately, I'm unable to answer.", "en", "refusal"),
        ("<think>never comes to an end", "en", "thinking"),
        ("<think>all of it</think>", "en", "thinking"),
        ("I'm sorry, but I can't help with that.", "en", "refusal"),
        ("I’m sorry, but I can’t help with that.", "en", "refusal"),
        ("As an AI language model, I cannot know.", "en", "refusal"),
        ("I cannot assist with this request.", "en", "refusal"),
        ("抱歉，我无法回答这个问题。", "zh", "refusal"),
        ("作为一个人工智能模型，我不能提供该信息", "zh", "refusal"),
        ("Sort a list.", "en", "query"),
        ("云层放电产生雷声", "en", "language"),
        ("Thunder is the sound of lightning.", "zh", "language"),
    ],
)
def test_answers_of_no_use(answer: str | None, language: str, problem: str) -> None:
    assert examine(answer, "sort a list", language)[2] == problem
    assert problem in PROBLEMS


def test_chinese() -> None:
    query = "天上为什么会打雷"
    assert examine("段落：云层放电，pH 7。", query, "zh") == ("云层放电，pH 7。", ["label"], None)
    assert examine("天上为什么会打雷？\n云层放电。", query, "zh") == ("云层放电。", ["query"], None)
    assert examine("天上，为什么会打雷？", query, "zh")[2] == "query"


def test_an_answer_cut_off_loses_its_broken_sentence_or_is_of_no_use() -> None:
    assert examine("list.sort sorts in place. It is sta", "q", "en", cut=True) == (
        "list.sort sorts in place.", ["cut"], None,
    )  # fmt: skip
    assert examine("云层放电。产生雷声。因", "q", "zh", cut=True) == ("云层放电。产生雷声。", ["cut"], None)
    assert examine("list.sort sorts in place and", "q", "en", cut=True)[2] == "cut"
    assert examine("Yes. " + "word " * 20, "q", "en", cut=True)[2] == "cut"
    # Beyond what was asked for, it lacks nothing but the word that broke.
    assert examine("one two three fo", "q", "en", cut=True, enough=3) == ("one two three", ["cut"], None)
    assert examine("one two three", "q", "en", cut=True, enough=3)[2] == "cut"
    assert examine("云层放电产生雷声", "q", "zh", cut=True, enough=3)[1:] == ([], None)
    # White space after a name is no end of a Chinese word.
    assert examine("Python 是解释型语言的一种", "q", "zh", cut=True, enough=3)[0] == "Python 是解释型语言的一种"
    assert examine("list.sort sorts in place.", "q", "en", cut=True) == ("list.sort sorts in place.", [], None)


def test_other_languages_are_not_checked_for_theirs() -> None:
    assert examine("Donner ist der Schall des Blitzes.", "q", "de")[2] is None
