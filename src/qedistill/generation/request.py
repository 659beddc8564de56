"""What a teacher is asked and what it answers."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qedistill.prompts import Messages
from qedistill.tally import Tally


@dataclass(frozen=True)
class Usage:
    """Tokens of one call or many: the prompt's (those the server had cached among them) and the completion's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


def tokens_in(text: str) -> int:
    """Tokens of a text, estimated: one for four letters or one Chinese character."""
    wide = sum(ord(c) > 0x2E7F for c in text)
    return (len(text) - wide) // 4 + wide


def tokens_of(messages: Messages) -> int:
    """Tokens of a prompt, estimated, with those that mark the turns."""
    return sum(tokens_in(message["content"]) + 10 for message in messages)


_BELIEVED = 10**8  # tokens of a call, at most


def usage_of(told: Any, messages: Messages, written: str) -> tuple[Usage, bool]:
    """Tokens of a call by the server's own count, and whether that was overruled; what it does not count is estimated.

    A count that cannot be (negative, no whole number, without end) is overruled by the estimate, and cached tokens that
    are more than the prompt's by none at all: no nonsense makes a call cheaper than it may have been.

    Args:
        told: the `usage` of a chat completion.
        written: all that the model wrote, reasoning too.
    """
    told = told if isinstance(told, dict) else {}
    details = told.get("prompt_tokens_details")
    cached = (
        details.get("cached_tokens") if isinstance(details, dict) else None
    )  # OpenAI's name for it; below DeepSeek's
    counts = {name: told.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    counts["cached_tokens"] = told.get("prompt_cache_hit_tokens") if cached is None else cached
    known = {name: int(count) for name, count in counts.items() if _is_count(count)}
    overruled = any(count is not None and name not in known for name, count in counts.items())
    prompt = known.get("prompt_tokens") or tokens_of(messages)
    completion = known.get("completion_tokens") or tokens_in(written)
    # Google and xAI leave reasoning out of the completion's tokens, but not out of the total.
    completion = max(completion, known.get("total_tokens", 0) - prompt)
    if known.get("cached_tokens", 0) > prompt:
        return Usage(prompt, completion), True
    return Usage(prompt, completion, known.get("cached_tokens", 0)), overruled


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _BELIEVED and value % 1 == 0


@dataclass(frozen=True)
class Request:
    """One answer that is wanted of a chat model.

    Attributes:
        sample: number of the answer among those to the same messages, from 0; never sent.
        options: fields of the request's body beside model and messages: sampling, limits, a vendor's own.
    """

    query_id: str
    query: str
    style: str
    sample: int
    model: str
    messages: Messages
    options: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """A digest of all that determines the answer: model, messages, options and sample number."""
        parts = [self.model, self.messages, self.options, self.sample]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a model wrote, made clean.

    Attributes:
        cleaned: what was taken away from `raw`, by kind (`checks.examine`).
        seconds: from the request to the whole answer.
    """

    text: str
    cleaned: list[str] = field(default_factory=list)
    raw: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0


@dataclass
class Outcome:
    """What asking a teacher came to.

    Attributes:
        answers: key of the request → its answer.
        useless: key of a request without an answer of use → what was wrong with the last one (`checks.PROBLEMS`), or
            why there is none: `blocked`, `too_long` or `rejected` by the server, `unanswered` for some other reason.
        said: key of a request without an answer of use → what came in its place: the answer, or the server's words.
        calls: answered calls by outcome, `answer` or what was wrong; with a ledger also those of earlier runs.
        usage: tokens of all these calls.
        asked: calls answered in this run.
        seconds: a local teacher's for all of them.
        told: what was overruled.
    """

    answers: dict[str, Answer]
    useless: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    usage: Usage = Usage()
    asked: int = 0
    seconds: float = 0.0
    told: Tally = field(default_factory=Tally)
