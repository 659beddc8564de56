"""Is an answer an expansion? What is safe to take away is taken away; what is not makes the answer useless."""

import re

from qedistill.words import HAN, count_words, plain, says_something

# Kinds of cleaning and of problems, as the metrics count them.
CLEANED = ("thinking", "label", "quotes", "query", "cut")
PROBLEMS = ("empty", "refusal", "thinking", "cut", "language", "query")

_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINKING_OPEN = re.compile(r"<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
# A closing tag alone: the opening one stood in the prompt, as in Qwen3's and DeepSeek-R1's templates.
_THINKING_END = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:(?:here(?: is|'s)|below is)[^\n:]{0,80}:\s*\n|\**(?:passage|expansion|answer|段落|扩展|回答|答案)\**\s*[:：]\**\s*)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^(?:(?:i'm |i am |we're )?(?:very |so |truly )?sorry\b[,.]? (?:but |i |we )"
    r"|(?:i apologi[sz]e|my apologies|unfortunately)[^.]{0,40}\b(?:can(?:'|no)t|can ?not|unable)\b"
    r"|(?:i |we )(?:can(?:'|no)t|can ?not|am (?:unable|not able)|won't|will not) (?:help|assist|provide|answer|write|comply|do|fulfil)"
    r"|as an ai(?: language)? (?:model|assistant)\b"
    r"|(?:很|非常)?(?:抱歉|对不起)[,，。！\s]*.{0,16}(?:无法|不能|没办法)"
    r"|(?:我|作为.{0,8}(?:人工智能|AI|模型).{0,8})(?:无法|不能)(?:回答|提供|协助|帮助|写|完成|满足))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$|[^\s\w])|[。！？]")
_QUOTES = {'"': '"', "'": "'", "“": "”", "「": "」", "`": "`"}
_LAST_WORD = re.compile(rf"[^\s{HAN.pattern[1:]}+$")
_HAN_SHARE = 0.3  # of the letters; API names and numbers stand in Chinese texts too
_WHOLE_SHARE = 0.5  # of a cut text that must be left once its last, broken sentence is gone


def examine(
    text: str | None, query: str, language: str, cut: bool = False, enough: int | None = None
) -> tuple[str, list[str], str | None]:
    """The expansion in an answer, with white space as single spaces.

    Args:
        text: as the model wrote it; None where it wrote nothing.
        query: what was asked.
        language: of the collection (`en`, `zh`; others are not checked).
        cut: the token limit ended the answer.
        enough: words that were asked for; an answer cut off beyond them lacks nothing.

    Returns:
        The text; what was taken away from it (of `CLEANED`: reasoning in <think> tags, a label such as "Passage:",
        quotes around the whole, the query repeated before it, a sentence broken off by the token limit); and, where
        the answer is of no use, why (of `PROBLEMS`), else None.
    """
    cleaned: list[str] = []

    def take_away(kind: str, left: str) -> None:
        nonlocal text
        if left.strip() != (text or "").strip() and kind not in cleaned:
            cleaned.append(kind)
        text = left

    text = text or ""
    take_away("thinking", _THINKING_END.sub("", _THINKING_OPEN.sub("", _THINKING.sub("", text))))
    if cleaned and not text.strip():
        return "", cleaned, "thinking"
    text = text.strip()
    wrapped = None
    while text and text != wrapped:  # a label within quotes, quotes behind a label
        wrapped = text
        take_away("query", _without_query(text, query))
        take_away("label", _LABEL.sub("", text).strip())
        take_away("quotes", _unquoted(text))
    if not says_something(text):
        return "", cleaned, "query" if "query" in cleaned else "empty"
    if _REFUSAL.match(text.replace("\u2019", "'")):
        return " ".join(text.split()), cleaned, "refusal"
    if cut:
        whole = _whole_sentences(text)
        if len(whole) < _WHOLE_SHARE * len(text):
            if enough is None or count_words(text) <= enough:
                return " ".join(text.split()), cleaned, "cut"
            whole = _LAST_WORD.sub("", text) or text  # it may be broken; a Han character never is
        take_away("cut", whole)
    text = " ".join(text.split())
    return text, cleaned, None if _in_language(text, language) else "language"


def _unquoted(text: str) -> str:
    close = _QUOTES.get(text[:1])
    inside = text[1:-1]
    # Quotes around two parts of it are no quotes around the whole.
    return inside.strip() if len(text) > 1 and text[-1] == close and text[0] not in inside else text


def _without_query(text: str, query: str) -> str:
    """The text without the query before it, where that stands on a line of its own or is all there is."""
    first, _, rest = text.partition("\n")
    label, _, after = first.partition(":") if ":" in first else first.partition("：")
    line = after if label.strip().casefold() in ("query", "查询") else first
    return rest.strip() if plain(line) == plain(query) else text


def _whole_sentences(text: str) -> str:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def _in_language(text: str, language: str) -> bool:
    """Chinese where Chinese is wanted, no Chinese where English is."""
    if language not in ("en", "zh"):
        return True
    han = len(HAN.findall(text))
    letters = sum(c.isalpha() for c in text)
    if not letters:
        return True  # figures are figures in any language
    return (han / letters >= _HAN_SHARE) == (language == "zh")
