"""What teacher and student are asked, as chat messages; a file of templates a language, `prompts/<language>.yaml`."""

import functools
import string
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from qedistill.errors import UserError
from qedistill.params import Collection
from qedistill.text import read_yaml

Messages = list[dict[str, str]]
STYLES = ("zero_shot", "few_shot")
TEMPLATES = Path("prompts")
PLACEHOLDERS = {
    "instruction": {"document", "max_words"},
    "query": {"query"},
    "passage": {"passage"},
    "short": set[str](),
}


class Templates(BaseModel):
    """The parts of a prompt, each with exactly the placeholders of `PLACEHOLDERS`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    instruction: str
    query: str
    passage: str
    short: str = Field(min_length=1)

    @field_validator("*")
    @classmethod
    def _placeholders(cls, text: str, info: ValidationInfo) -> str:
        wanted = PLACEHOLDERS[str(info.field_name)]
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ or }}}} for a brace") from None
        if found != wanted:
            raise ValueError(f"has the placeholders {_braced(found)}, needs {_braced(wanted)}")
        try:
            text.format(**dict.fromkeys(wanted, "text"))
        except (ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"a placeholder is more than a name in braces ({error})") from None
        return text


@functools.cache
def load_templates(language: str, folder: Path = TEMPLATES) -> Templates:
    """The templates of a language.

    Raises:
        UserError: there is no file for it, a key is missing or unknown, or a placeholder is.
    """
    path = folder / f"{language}.yaml"
    try:
        if path.is_file():
            return Templates.model_validate(read_yaml(path))
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none: run this in the folder of dvc.yaml"
        raise UserError(f"collection.language: no prompt templates for {language!r} (there are: {known}); write {path}")
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise UserError(f"{path}: {'; '.join(wrong)}") from None


def _braced(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"


@dataclass(frozen=True)
class Exemplar:
    """A training query with the passage that a relevant document starts with."""

    query_id: str
    query: str
    doc_id: str
    passage: str


Exemplars = dict[str, list[Exemplar]]  # query id, or EVERY → exemplars in the order of the prompt
EVERY = "*"  # the key of those that every query is shown


def shown(query_id: str, exemplars: Exemplars) -> list[Exemplar]:
    """The exemplars of a query, in the order of the prompt."""
    return exemplars.get(query_id, exemplars.get(EVERY, []))


def zero_shot(query: str, collection: Collection, max_words: int) -> Messages:
    """Instruction and query."""
    return few_shot(query, [], collection, max_words)


def few_shot(query: str, exemplars: list[Exemplar], collection: Collection, max_words: int) -> Messages:
    """Instruction, exemplars (query → passage, separated by blank lines) and query, in one user message."""
    t = load_templates(collection.language)
    blocks = [_block(t, exemplar.query, exemplar.passage) for exemplar in exemplars]
    instruction = t.instruction.format(document=collection.document, max_words=max_words)
    return [{"role": "user", "content": "\n\n".join([instruction, *blocks, _block(t, query, "")])}]


def student(query: str, prompt: str, collection: Collection, max_words: int) -> Messages:
    """The student's prompt, without exemplars: `query` (nothing else), `short` (a few words before it) or `full` (the
    teacher's zero-shot prompt)."""
    if prompt == "full":
        return zero_shot(query, collection, max_words)
    user = {"role": "user", "content": query}
    if prompt == "query":
        return [user]
    return [{"role": "system", "content": load_templates(collection.language).short.format()}, user]


def answer(text: str) -> Messages:
    """An expansion as the assistant's turn."""
    return [{"role": "assistant", "content": text}]


def _block(templates: Templates, query: str, passage: str) -> str:
    return f"{templates.query.format(query=query)}\n{templates.passage.format(passage=passage).rstrip()}"
