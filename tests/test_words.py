"""Texts: cleaning, the form by which equal ones are told, and words."""

import pytest

from qedistill import words


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("a\x00b\x7fc", "abc"),
        ("half \ud83d, whole \ud83d\ude00", "half \ufffd, whole \U0001f600"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07text", "red text"),
        ("\ufeffmark", "mark"),
        ("next\x85line\u2028and\x0cpage", "next line and page"),
        ("का \U0001f468\u200d\U0001f469 ⁵", "का \U0001f468\u200d\U0001f469 ⁵"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert words.clean(text) == cleaned == words.clean(cleaned)
    cleaned.encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is “C++”?", "what is c++"),
        ("ＡＢＣ\u3000１", "abc 1"),
        ("ﬁne", "fine"),
        ("数据 分析", "数据分析"),
        ("Python 教程。", "python教程"),
        ("don’t", "don't"),
        ("(see below).", "see below"),
        ("e-mail", "e‑mail"),
        ("Quoi ?", "quoi?"),
        ("¿qué?", "qué"),
        ('say "hello world" twice', "say hello world twice"),
        ("天上，为什么会打雷？", "天上为什么会打雷"),
        ("naïve", "nai\u0308ve"),
        ("a\u200bb", "ab"),
        ("İstanbul", "istanbul"),
    ],
)
def test_equal_texts_are_told(one: str, other: str) -> None:
    assert words.plain(one) == words.plain(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("in C++", "in C#"),
        (".NET", "net"),
        ("3.5", "35"),
        ("-1", "1"),
        ("2⁵", "25"),
        ("x<y", "x>y"),
        ("का", "की"),
        ("ग्राम", "गरम"),
        ("כן", "כֵן"),
        ("now here", "nowhere"),
        ("🔥", "💧"),
        ("f(x)", "fx"),
        ("node.js", "nodejs"),
        ("a && b", "a || b"),
        ("!x", "x"),
        ("x²", "x2"),
        ("what does ?? do", "what does ?. do"),
        ("array[]", "array"),
        ("5%", "5"),
        ("$x", "x"),
        ("Ünlü", "unlu"),
    ],
)
def test_what_tells_words_apart_is_kept(one: str, other: str) -> None:
    assert words.plain(one) != words.plain(other)


@pytest.mark.parametrize("text", ["?", "？", "??", "[]", "<>", "...", "।", "🔥", '"', "=>", "!=", "()", "-"])
def test_no_text_becomes_empty(text: str) -> None:
    assert words.plain(text)
    assert words.plain("") == words.plain(" \n") == ""


def test_says_something() -> None:
    assert all(map(words.says_something, ["a", "1", "+", "🔥", "=>", "का"]))
    assert not any(map(words.says_something, ["", " ", "...", "---", "***", "\u200b", "\x00"]))


def test_cut_words() -> None:
    assert words.cut_words("a b  c", 2) == "a b"
    assert words.cut_words("a b  c", None) == "a b  c"


def test_two_han_characters_are_a_word() -> None:
    chinese = "雷电，是云层numpy.sort 的放电。 气象"
    assert words.count_words(chinese) == 6.0  # 雷电 是云 层…的 放电 气象, and numpy.sort
    assert [words.cut_words(chinese, n) for n in (1, 3, 4, 99)] == [
        "雷电，", "雷电，是云层", "雷电，是云层numpy.sort 的", chinese,
    ]  # fmt: skip
    long = "没有空格的文字" * 20
    assert all(words.count_words(words.cut_words(long, n)) == n for n in (1, 5, 60))
