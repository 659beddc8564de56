"""Why a server ended an answer, in whatever words it says so."""

import re
from typing import Any, Literal

Ending = Literal["whole", "cut", "refusal", "broken"]

# As the servers document them; case, hyphens and the name of an enumeration before them do not count.
_ENDINGS: dict[Ending, frozenset[str]] = {
    # A limit of tokens was reached.
    "cut": frozenset({
        "length", "max_length", "model_length", "length_limit",  # OpenAI, Mistral
        "max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens",  # Anthropic, Gemini, Cohere
        "token_limit", "tokens_limit", "limit", "error_limit", "truncated",  # watsonx, llama.cpp, Cohere
        "model_context_window_exceeded", "context_window_exceeded", "context_length_exceeded",  # Anthropic, Zhipu
    }),
    # A filter, or the vendor's or model's will: asking at once again brings the same.
    "refusal": frozenset({
        "content_filter", "content_filtered", "guardrail_intervened", "refusal", "refused",  # OpenAI, Bedrock, Anthropic
        "safety", "recitation", "blocklist", "prohibited_content", "spii", "language", "other", "model_armor",  # Gemini
        "jailbreak", "sensitive", "error_toxic", "content_blocked", "blocked", "moderation",  # Zhipu, Cohere
    }),
    # A fault of the server: the next attempt may be whole.
    "broken": frozenset({
        "insufficient_system_resource", "error", "abort", "aborted", "network_error",  # DeepSeek, OpenRouter, vLLM, Zhipu
        "cancelled", "canceled", "user_cancel", "timeout", "time_limit", "not_finished",  # Cohere, watsonx
        "server_error", "internal_error", "rate_limit_exceeded", "malformed_response", "malformed_model_output",
    }),
}  # fmt: skip
_MEANING = {reason: ending for ending, reasons in _ENDINGS.items() for reason in reasons}


def ending(reason: Any) -> Ending:
    """What a `finish_reason` says of its answer: it is whole, cut off by a limit, refused, or broken off by a fault.

    Example:
        >>> ending("FinishReason.MAX_TOKENS"), ending("contentFilter"), ending("stop"), ending(None)
        ('cut', 'refusal', 'whole', 'whole')
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(reason).rpartition(".")[2]).casefold()
    words = re.sub(r"[\s-]+", "_", words.strip()).removeprefix("finish_reason_")
    return _MEANING.get(words, "whole")
