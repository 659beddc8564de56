"""A model's chat: what its template makes of messages, and the tokens of that, in training and at inference alike.

A template is a program that came with a model. `settle` runs it once in a process of its own, mends what can be mended
and names what cannot; whoever has a settled template may run it as it is.
"""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qedistill.errors import UserError
from qedistill.prompts import Messages, answer
from qedistill.words import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Variables of every template: Qwen3 and its kin would think aloud first. Other templates pass over the name.
VARIABLES: dict[str, Any] = {"enable_thinking": False}
# What the template is given may spell a control token (a query on "<|im_end|>"); it is words then, no end of a turn.
OPTIONS = VARIABLES | {"sanitize_control_tokens": True, "return_dict": False}
# Stand-ins for a tokenizer's special tokens, where a template is looked at before there is one.
MARKS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

_SYSTEM, _QUERY, _ANSWER = "Quokkas first.", "sort wombats", "wallabies in order"  # no template has them
_DAY = "2024-07-26"
_LONGEST = 100_000  # characters that a template may make of these
_SECONDS, _WALL, _BYTES = 5, 120, 2**30  # of arithmetic, of waiting on a busy machine, and of memory besides Python's

# Jinja trims the line end behind a block, so what follows stands at the start of a line as it did.
_FOLDED = (
    "{%- if messages[0]['role'] == 'system' %}{% set messages = [{'role': messages[1]['role'], "
    "'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}] + messages[2:] %}{% endif %}\n"
)
_DATED = f"{{%- macro strftime_now(format) %}}{_DAY}{{% endmacro %}}\n"
_ASKED = "{%- set asked = add_generation_prompt %}{% set add_generation_prompt = false %}\n"


def encode(tokenizer: "PreTrainedTokenizerBase", prompts: Iterable[Messages]) -> list[list[int]]:
    """The tokens of each prompt, up to where its answer begins."""
    return [_tokens(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]


def encode_turns(
    tokenizer: "PreTrainedTokenizerBase", prompt: Messages, answers: Iterable[Messages]
) -> tuple[list[int], list[list[int]]]:
    """The tokens of a prompt, and of each answer to it with the end of its turn."""
    (asked,) = encode(tokenizer, [prompt])
    wholes = [_tokens(tokenizer, prompt + own) for own in answers]
    start = min(len(os.path.commonprefix([asked, whole])) for whole in wholes)
    return asked[:start], [whole[start:] for whole in wholes]


def fit_query(tokenizer: "PreTrainedTokenizerBase", query: str, ask: Callable[[str], Messages], room: int) -> str:
    """A query, cut at its end until its prompt has `room` tokens at most.

    Args:
        ask: the prompt of a query.

    Raises:
        UserError: there is no room even for its first word.
    """
    while (excess := len(encode(tokenizer, [ask(query)])[0]) - room) > 0:
        ids = tokenizer(query, add_special_tokens=False)["input_ids"]
        query = str(tokenizer.decode(ids[:-excess])).rstrip("\ufffd").strip() if excess < len(ids) else ""
        if not query:
            raise UserError(
                f"the student's prompt has no room for a query within {room} tokens: take student.prompt query"
            )
    return query


def _tokens(tokenizer: Any, messages: Messages, add_generation_prompt: bool = False) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, **OPTIONS)
    return ids


@dataclass(frozen=True)
class Chat:
    """A settled template.

    Attributes:
        template: mended, where it needed to be.
        notes: what was mended, a clause each.
        prompt, whole: an example with the generation prompt, and the same with an answer.
        closing: what stands behind an answer.
    """

    template: str
    notes: tuple[str, ...]
    prompt: str
    whole: str
    closing: str


@functools.cache
def _settle(template: str, marks: str) -> Chat | str:
    """The settled template, or what is wrong with it."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qedistill.chat"],
            input=json.dumps([template, json.loads(marks)]), capture_output=True, text=True, timeout=_WALL, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "it does not come to an end"
    if done.returncode == -signal.SIGXCPU:
        return "it does not come to an end"
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return f"Python ends ({done.returncode}) when it reads it"
    return found if isinstance(found, str) else Chat(**found | {"notes": tuple(found["notes"])})


def settle(template: str, marks: Mapping[str, str], name: str) -> Chat:
    """A chat template that serves students and their training, or an error.

    It is tried on a query, its answer and a system message, in a process with little time and memory. System words
    that it refuses or drops go into the user's turn, today's date is always the same day, a missing generation prompt
    is what stands before an answer, and a missing end of a turn is the tokenizer's end token.

    Args:
        marks: a tokenizer's special tokens by name, as `special_tokens_map`.
        name: of the template or its model, for errors.

    Raises:
        UserError: it is no template, fails, does not come to an end, or its prompts are not what stands before answers.
    """
    found = _settle(template, json.dumps({key: str(mark) for key, mark in marks.items() if isinstance(mark, str)}))
    if isinstance(found, str):
        raise UserError(f"{name}: no chat template: {found}")
    return found


def read_template(path: Path) -> str:
    """A chat template from a Jinja file.

    Raises:
        UserError: there is no such file, it is not UTF-8, or as `settle`.
    """
    name = f"student.chat_template {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; null takes the model's own template") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 (byte {error.start})") from None
    settle(text, MARKS, name)
    return text


def end_of_turn(tokenizer: "PreTrainedTokenizerBase", chat: Chat, name: str) -> str:
    """The token that ends an answer in a settled template.

    Raises:
        UserError: what stands behind an answer does not begin with a token of the tokenizer's, but is spelled in
            letters; or a prompt's tokens are not those before its answer.
    """
    added = tokenizer.added_tokens_decoder
    prompt, whole, closing = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (chat.prompt, chat.whole, chat.closing)
    )
    first = next((place for place, index in enumerate(closing) if index in added), len(closing))
    if first == len(closing) or str(tokenizer.decode(closing[:first])).strip():
        raise UserError(
            f"{name}: an answer ends with {one_line(chat.closing)!r}, which the tokenizer spells in letters, so that the "
            "model would never stop: take a template whose marks the tokenizer has as special tokens, or a model that has them"
        )
    if whole[: len(prompt)] != prompt:
        raise UserError(
            f"{name}: the generation prompt {chat.prompt[-20:]!r} ends within a token of what follows: let it end with a "
            "special token or a line end"
        )
    return str(tokenizer.convert_ids_to_tokens(closing[first]))


class _Faulty(Exception):
    """What is wrong with a template, as a clause."""


def _mend(template: str, marks: dict[str, str]) -> dict[str, Any]:
    """The fields of a `Chat`.

    Raises:
        _Faulty: see `settle`; jinja2's and Python's own errors pass.
    """
    turn = [{"role": "user", "content": _QUERY}, *answer(_ANSWER)]
    told = [{"role": "system", "content": _SYSTEM}, *turn]
    notes = []
    if "strftime_now" in template:
        if _DAY in _render(_DATED + template, turn, marks):
            notes.append(f"the chat template tells the date; it is always {_DAY}, so that runs can be repeated")
        template = _DATED + template
    _render(template, turn, marks)
    try:
        for asked in (False, True):
            _render(template, told[: 3 - asked], marks, asked)
    except Exception as error:  # noqa: BLE001 - templates refuse a role by whatever error comes
        template = _FOLDED + template
        _render(template, told, marks)
        why = f" ({one_line(error)})" if one_line(error) else ""
        notes.append(f"the chat template takes no system message{why}: its words go before the user's")
    if not all(_leads(*_parts(template, chat, marks)) for chat in (turn, told)):
        template = _prompted(template, turn, told, marks)
        notes.append("the chat template's generation prompt is not what stands before an answer: it is made so")
    prompt, whole = _parts(template, turn, marks)
    if not whole.rpartition(_ANSWER)[2].strip():
        if not marks.get("eos_token"):
            raise _Faulty("nothing ends an answer, and the tokenizer has no end token")
        template = f"{_stem(template)}{{{{ eos_token if messages[-1]['role'] == 'assistant' else '' }}}}"
        notes.append(f"the chat template does not end an answer: {marks['eos_token']} does")
        prompt, whole = _parts(template, turn, marks)
    closing = whole.rpartition(_ANSWER)[2]
    return {"template": template, "notes": notes, "prompt": prompt, "whole": whole, "closing": closing}


def _render(template: str, chat: Messages, marks: dict[str, str], asked: bool = False) -> str:
    """What a template makes of a chat.

    Raises:
        _Faulty: words are missing in it, or it is far too long.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    variables: dict[str, Any] = marks | VARIABLES
    found = render_jinja_template([chat], chat_template=template, add_generation_prompt=asked, **variables)
    text = str(found[0][0])
    if len(text) > _LONGEST:
        raise _Faulty(f"it makes {len(text):,} characters of a few words")
    if missing := [message["role"] for message in chat if message["content"] not in text]:
        raise _Faulty(f"a chat's messages are missing in what it renders ({', '.join(missing)})")
    return text


def _parts(template: str, chat: Messages, marks: dict[str, str]) -> tuple[str, str]:
    """A chat without its answer and with the generation prompt, and the whole of it."""
    return _render(template, chat[:-1], marks, asked=True), _render(template, chat, marks)


def _leads(prompt: str, whole: str) -> bool:
    """Whether an answer follows its prompt, by white space at most."""
    before = whole.rpartition(_ANSWER)[0]
    return before.startswith(prompt) and not before[len(prompt) :].strip()


def _prompted(template: str, turn: Messages, told: Messages, marks: dict[str, str]) -> str:
    """The template with what stands before an answer as its generation prompt."""
    openings = set()
    for chat in (turn, told):
        before = _render(template, chat, marks).rpartition(_ANSWER)[0]
        plain = _render(template, chat[:-1], marks)
        if not before.startswith(plain):
            raise _Faulty("a prompt alone is not rendered as it is before its answer")
        openings.add(before[len(plain) :])
    if len(openings) > 1:
        raise _Faulty("what stands before an answer changes with the system message")
    return f"{_ASKED}{_stem(template)}{{{{ {json.dumps(openings.pop())} if asked else '' }}}}"


def _stem(template: str) -> str:
    """A template to go on from: Jinja drops the line end at the end of a template."""
    return template.removesuffix("\n")


def _say() -> None:
    """Settle the template on standard input; its chat or what is wrong goes to standard output, as JSON."""
    import psutil
    from jinja2 import TemplateSyntaxError
    from transformers.utils import chat_template_utils  # noqa: F401 - before the limits

    template, marks = json.load(sys.stdin)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + _SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found: Any
    try:
        found = _mend(template, marks)
    except MemoryError:
        found = "it takes too much memory"
    except TemplateSyntaxError as error:
        found = f"{one_line(error.message)} (line {error.lineno})"
    except Exception as error:  # noqa: BLE001 - whatever a template makes of a chat
        found = one_line(error) or type(error).__name__
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _say()
