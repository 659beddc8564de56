"""Texts: what every file can hold, the form by which equal texts are told, and words, counted and cut."""

import re
import unicodedata
from collections.abc import Iterator

HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_PIECES = re.compile(rf"{HAN.pattern}|[^{HAN.pattern[1:]}+")

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")  # ECMA-48: CSI and OSC
_BREAKS = re.compile("[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")  # white space to Python, more than one line to some readers
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\ufeff\ufdd0-\ufdef\ufffe\uffff]")


def clean(text: str) -> str:
    """A text that UTF-8, terminals and line-based files can hold; most come back as they are.

    Halves of surrogate pairs are joined, or replaced by U+FFFD where the other half is missing (byte-level models and
    JSON escapes make such); terminal escapes, control characters other than tab and line ends, byte order marks and
    noncharacters go; separators that only some readers take for a line end become spaces.

    Example:
        >>> clean("a\\x00b\\ud83d\\x1b[31m red\\ufeff")
        'ab\\ufffd red'
    """
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _UNPRINTABLE.sub("", _BREAKS.sub(" ", _TERMINAL.sub("", text)))


def check_clean(text: str) -> str:
    """A text of the settings as it is: what `clean` would change is the user's to mend.

    Raises:
        ValueError: it would change it.
    """
    if clean(text) != text:
        raise ValueError("holds control characters or others that no file can hold; remove them")
    return text


def one_line(text: object) -> str:
    """A text, or what an object such as an error says, clean and with single spaces for all white space."""
    return " ".join(clean(str(text)).split())


def says_something(text: str) -> bool:
    """Whether a text has a letter, figure or symbol (an operator, an emoji), not only punctuation and space."""
    return any(unicodedata.category(c)[0] in "LNS" for c in clean(text))


# Decompositions that change how a character looks and not what it says. Superscripts, subscripts, fractions and
# circles are kept: 2⁵ is not 25.
_LOOKS = ("<wide>", "<narrow>", "<compat>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>", "<small>",
          "<vertical>", "<font>", "<square>")  # fmt: skip
_SIGNS = str.maketrans({**dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032", "'"), **dict.fromkeys("\u201c\u201d\u201f\u2033", '"'),
                        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"), "\u2026": "..."})  # fmt: skip
_WRAPS = dict(zip("([{\"'«‹„‚「『《〈【〔", ")]}\"'»›“‘」』》〉】〕", strict=True))
_STOPS = ".,;:!?。、，；：！？؟،؛।॥։።"
# Between Han characters they part words as white space does elsewhere.
_CJK_MARKS = re.compile("[。、，；：！？「」『』《》〈〉【】〔〕（）]")
# Scripts without spaces between words: a space beside their letters says nothing.
_UNSPACED = re.compile(
    r"(?<=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]) +"
    r"| +(?=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])"
)


def plain(text: str) -> str:
    """The form by which equal texts are told: case, width, ligatures, typographic signs, white space and the
    punctuation around words do not count; everything that tells words apart does.

    Letters with their marks, figures, symbols and punctuation inside words stay, in every script: C++ is not C#, 3.5 is
    not 35, and in Hindi a vowel sign is a letter. Of a text that is nothing but punctuation all of it stays.

    Example:
        >>> plain("What is “C++”?") == plain("what is c++"), plain("in C++") == plain("in C#")
        (True, False)

    Source: Unicode's caseless matching (The Unicode Standard, 3.13), with compatibility decomposition restricted to
        differences of look (UAX #44, table 14).
    """
    whole = unicodedata.normalize("NFC", clean(text))
    parted = _CJK_MARKS.sub(" ", whole)
    shown = parted if parted.strip() else whole
    if not shown.isascii():  # of ASCII nothing looks otherwise, and training sets have half a million queries
        shown = "".join(map(_look, shown)).translate(_SIGNS)
        shown = "".join(c for c in shown if not _ignorable(c))
    folded = unicodedata.normalize("NFC", shown.casefold().replace("i\u0307", "i"))  # of Turkish İ
    tokens = folded.split()
    while len(tokens) > 1 and all(c in _STOPS for c in tokens[-1]):
        tokens.pop()
    return _UNSPACED.sub("", " ".join(map(_bare, tokens)))


def _look(c: str) -> str:
    kind, _, points = unicodedata.decomposition(c).partition(" ")
    return "".join(chr(int(point, 16)) for point in points.split()) if kind in _LOOKS else c


def _ignorable(c: str) -> bool:
    """Joiners, soft hyphens and marks of direction, and the selectors of an emoji's look."""
    return unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f"


def _bare(token: str) -> str:
    """A token without what surrounds a word: sentence marks behind it, and quotes and brackets around it or, opened
    or closed elsewhere, around several; those that belong to a word, as in f(x), stay, and so does a token of nothing
    else."""
    while len(token) > 1:
        first, last = token[0], token[-1]
        if last in _STOPS and not all(c in _STOPS for c in token):
            token = token[:-1]
        elif len(token) > 2 and last == _WRAPS.get(first):
            token = token[1:-1]
        elif first in "¿¡" or (first in _WRAPS and _WRAPS[first] not in token[1:]):
            token = token[1:]
        elif last in _WRAPS.values() and not any(_WRAPS.get(c) == last for c in token[:-1]):
            token = token[:-1]
        else:
            break
    return token


def cut_words(text: str, words: int | None) -> str:
    """The first `words` words of a text, as `count_words` counts them; all of it for None."""
    if words is None:
        return text
    kept: list[str] = []
    room = float(words)
    for token in text.split():
        fits = ""
        for piece, weight in _pieces(token):
            room -= weight
            if room < 0:
                return " ".join([*kept, fits] if fits else kept)
            fits += piece
        kept.append(fits)
    return " ".join(kept)


def count_words(text: str) -> float:
    """Words by white space; of text that has none between its words, two Han characters count as one.

    Two, as most words of modern Chinese have two characters.
    """
    return sum(weight for token in text.split() for _, weight in _pieces(token))


def _pieces(token: str) -> Iterator[tuple[str, float]]:
    """A token without white space in pieces that are not cut, each with its weight in words."""
    if not HAN.search(token):
        yield token, 1.0
        return
    for piece in _PIECES.findall(token):
        # Punctuation between Han characters is no word; a name or a number in Latin script is one.
        yield piece, 0.5 if HAN.match(piece) else float(any(c.isalnum() for c in piece))
