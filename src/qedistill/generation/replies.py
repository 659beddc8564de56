"""What a server's reply says: JSON, whatever it comes wrapped in, and complaints in the words that are in use."""

import json
import re
from typing import Any

from qedistill.words import one_line

_WEB_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)

# Of one prompt: what it says, or its length. Words and codes of Alibaba (data_inspection_failed), Anthropic (output
# blocked by content filtering policy), Azure (content_filter, ResponsibleAIPolicyViolation), Bedrock (guardrail),
# ByteDance (SensitiveContentDetected), DeepSeek (Content Exists Risk), Google (blockReason), MiniMax (new_sensitive),
# Moonshot (considered high risk), OpenAI (invalid_prompt, flagged), OpenRouter (moderation), xAI (content violates usage
# guidelines) and Zhipu (敏感内容).
_BLOCKED = re.compile(
    r"content[ _-]?(?:exists[ _-]?risk|filter|policy|management|moderation|safety|violat)|data_?inspection|moderation|"
    r"flagged|sensitive|responsible_?ai|inappropriate|usage (?:guideline|polic)|invalid_prompt|high[ _-]risk|safety|"
    r"block_?reason|prohibited_content|guardrail|敏感|不安全|违规|不合规",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|(?:too|very) (?:long|large)|range of input length|string_above_max_length|"
    r"(?:maximum|max) (?:context|input|prompt|sequence|model)[ _]len|longer than the (?:model|maximum)|"
    r"(?:input|prompt|tokens)\b.{0,60}\bexceed",
    re.IGNORECASE,
)
# Of all: no request passes until somebody pays.
_NO_MONEY = re.compile(
    r"insufficient[ _-]?(?:quota|balance|credit|fund)|balance (?:is )?(?:not enough|insufficient|too low)|arrearage|欠费|"
    r"余额不足",
    re.IGNORECASE,
)

_REPEATED = {"input", "ctx", "messages", "prompt"}


class WebPage(ValueError):
    """A page for browsers, where an API's reply should be; says its title."""


def read_body(text: str, content_type: str) -> Any:
    """The JSON value in a reply; a stream of events counts as the completion that it amounts to, plain text as itself.

    Raises:
        WebPage: it is a page for browsers.
        ValueError: it is no JSON, or a stream that broke off.
    """
    if is_web_page(text, content_type):
        raise WebPage(title(text))
    text = text.lstrip("\ufeff").strip()
    try:
        if text.startswith(("data:", "event:", "id:", "retry:", ":")):
            return _assembled(text)
        return json.loads(text)
    except json.JSONDecodeError:
        if not content_type or content_type.startswith("text/plain"):  # as vLLM says that it has loaded an adapter
            return text
        raise
    except (RecursionError, AttributeError, TypeError):
        raise ValueError("JSON of another shape than a chat completion's") from None


def is_web_page(text: str, content_type: str = "") -> bool:
    # Some gateways call JSON text/html.
    return bool(_WEB_PAGE.match(text)) or (content_type.startswith("text/html") and text.lstrip()[:1] not in "{[")


def title(page: str) -> str:
    """What a page for browsers calls itself."""
    found = _TITLE.search(page)
    return f"a web page, “{one_line(found[1])[:80]}”" if found and found[1].strip() else "a web page"


def _assembled(text: str) -> Any:
    """The completion that a stream of chunks amounts to, or the error in it.

    Source: the event stream format of HTML's server-sent events, chunks as in OpenAI's reference.
    """
    message: dict[str, str] = {}
    whole: dict[str, Any] = {}
    ended = None
    for event in re.split(r"\r\n\r\n|\n\n|\r\r", text):
        lines = [line.removeprefix("data:").strip() for line in event.splitlines() if line.startswith("data:")]
        data = "\n".join(lines)
        if data == "[DONE]":
            ended = ended or "stop"
            break
        if not data:
            continue
        chunk = json.loads(data)
        if not isinstance(chunk, dict) or chunk.get("error"):
            return chunk
        whole |= {key: value for key, value in chunk.items() if value is not None}
        for choice in (chunk.get("choices") or [])[:1]:
            ended = choice.get("finish_reason") or ended
            for name, piece in (choice.get("delta") or choice.get("message") or {}).items():
                if isinstance(piece, str) and name != "role":
                    message[name] = message.get(name, "") + piece
    if not whole:
        raise ValueError("a stream without an event")
    if ended is None:
        raise ValueError("a stream that broke off")
    return whole | {"choices": [{"index": 0, "message": message, "finish_reason": ended}]}


def words_of(body: Any) -> str:
    """What a server says in the body of an error, in the shapes that are in use; nothing where it says nothing."""
    if isinstance(body, str):
        return title(body) if is_web_page(body) else one_line(body)
    for key in ("error", "message", "detail", "base_resp", "status_msg", "errors", "msg"):
        while isinstance(body, dict | list) and body:
            if isinstance(body, list):  # FastAPI's detail, a gateway's list of errors
                body = body[0]
            elif body.get(key):
                body = body[key]
            else:
                break
    return one_line(body) if isinstance(body, str) else ""


def complaint(body: Any, status: int | None = None) -> str | None:
    """What a reply of no use is about: `money`, or of one prompt `blocked` or `too_long`; None where it does not say."""
    said = _told(body)
    if status == 402 or _NO_MONEY.search(said):
        return "money"
    if status == 429:  # limits of tokens speak of too many, too; this is a single request that they can never let pass
        return "too_long" if "request too large" in said.lower() else None
    if status == 451 or _BLOCKED.search(said):
        return "blocked"
    return "too_long" if status in (413, 414) or _TOO_LONG.search(said) else None


def _told(body: Any) -> str:
    """All that an error says, names of fields included, without what it repeats of the request."""
    if isinstance(body, dict):
        return " ".join(f"{key} {_told(value)}" for key, value in body.items() if value and key not in _REPEATED)
    if isinstance(body, list):
        return " ".join(map(_told, body))
    return "" if isinstance(body, str) and is_web_page(body) else str(body)


def status_in(body: Any) -> int | None:
    """The HTTP status that an error tells in a body which came as a success."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:4])
    return code if isinstance(code, int) and 400 <= code < 600 else None
