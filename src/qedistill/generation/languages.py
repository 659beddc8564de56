"""Is a text in the language of its collection?"""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Another language must be so many times likelier. Measured on technical English, where API names are most of a text:
# none of 9,562 recorded answers and 10,909 documents is above 25; the least of 44 short texts in 22 others is at 120.
_LIKELIER = 100.0
_NO_LANGUAGE = {"zxx", "la"}  # figures and code; the Latin of species, anatomy and law is at home in any language
_ENOUGH = 4000  # characters that are looked at
# Names, code and figures say nothing of the language around them. Letters of other scripts part words from them.
_NAMES = re.compile(
    r"[!-~\u00c0-\u024f]*(?:[A-Z0-9_()=<>\[\]{}/\\\u00c0-\u00d6\u00d8-\u00de]|\w\.\w)[!-~\u00c0-\u024f]*"
)


def in_language(text: str, language: str) -> bool:
    """Whether a text may be in a language; also where that cannot be told, as of names, figures and code.

    Args:
        language: by ISO 639-1; of one that is not known to the identifier, all texts may be.
    """
    identifier = _identifier()
    if language not in identifier.labels:
        return True
    text = text[:_ENOUGH]
    ranked: dict[str, float] = dict(identifier.rank(_NAMES.sub(" ", text.lower() if text.isupper() else text)))
    likeliest = max(ranked, key=lambda name: ranked[name])
    return likeliest in _NO_LANGUAGE or ranked[likeliest] <= _LIKELIER * ranked[language]


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
