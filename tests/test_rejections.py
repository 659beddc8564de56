"""What is wrong with one request, and what with all: the shapes in which servers say it, and what it may cost."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asker import VARIABLE, make_requests, teacher
from fault_server import KEY, answer

from qedistill.errors import UserError
from qedistill.generation.api import _Budget, ask
from qedistill.generation.client import redact
from qedistill.generation.ledger import Ledger
from qedistill.generation.replies import complaint, read_body, words_of
from qedistill.generation.request import Answer, Usage, usage_of
from qedistill.generation.teacher import teach
from qedistill.params import Params, Prices, load_params
from qedistill.tally import Tally

Start = Callable[..., tuple[int, Path]]
PARAMS = load_params(Path(__file__).parents[1] / "profiles/pyapi.yaml")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.fixture
def start(start: Start) -> Start:
    return partial(start, faults={}, latency=0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def with_teacher(port: int, tolerance: float = 0.0, **changes: Any) -> Params:
    asked = teacher(port, **changes).model_copy(update={"tolerance": tolerance})
    return PARAMS.model_copy(update={"teacher": asked})


def error(status: int, message: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "body": {"error": {"message": message} | more}}


# One prompt is rejected, in the words of DeepSeek, Azure, Alibaba, OpenAI, Moonshot, xAI, Zhipu, Google, OpenRouter,
# MiniMax, vLLM, llama.cpp (its old server: 500), Groq, FastAPI and others.
FILTERED = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
OF_ONE = {
    "deepseek": (error(400, "Content Exists Risk", type="invalid_request_error"), "blocked"),
    "azure": (error(400, "The response was filtered", code="content_filter", innererror=FILTERED), "blocked"),
    "alibaba": (error(400, "<400> InternalError.Algo.DataInspectionFailed: Input text data may …"), "blocked"),
    "openai": (error(400, "Invalid prompt: your prompt was flagged as …", code="invalid_prompt"), "blocked"),
    "moonshot": (error(400, "The request was rejected because it was considered high risk"), "blocked"),
    "xai": ({"status": 403, "body": {"code": "…", "error": "Content violates usage guidelines. Team: t"}}, "blocked"),
    "zhipu": (error(400, "系统检测到输入或生成内容可能包含不安全或敏感内容", code="1301"), "blocked"),
    "google": ({"body": {"choices": [], "promptFeedback": {"blockReason": "OTHER"}}}, "blocked"),
    "openrouter": (error(200, "This content was flagged for possible cybersecurity risk...", code=502), "blocked"),
    "openrouter403": (error(403, "Input was flagged", metadata={"reasons": ["violence"]}, code=403), "blocked"),
    "minimax": ({"body": {"choices": None, "base_resp": {"status_msg": "input new_sensitive"}}}, "blocked"),
    "legal": ({"status": 451, "body": {"detail": "unavailable"}}, "blocked"),
    "vllm": (error(400, "This model's maximum context length is 8 tokens. However, you …"), "too_long"),
    "llama.cpp": (error(500, "the request exceeds the available context size. try increasing"), "too_long"),
    "groq": (error(413, "Request too large for model `m` on tokens per minute (TPM): Limit 6000"), "too_long"),
    "openai429": (error(429, "Request too large for m on tokens per min (TPM): Limit 1, Requested 9"), "too_long"),
    "nginx": ({"status": 413, "body": "<html><title>413 Request Entity Too Large</title></html>"}, "too_long"),
    "fastapi": ({"status": 422, "body": {"detail": [{"msg": "bad", "input": "no insufficient balance"}]}}, "rejected"),
    "other": (error(400, "Sorry! We've encountered an issue with repetitive patterns in your …"), "rejected"),
    "error": ({"body": {"error": "an error that is no error", "code": "x"}}, "unanswered"),
    "crash": ({"status": 500, "body": {"error": "IndexError"}}, "unanswered"),
    "no completion": ({"body": {"status": "ok"}}, "rejected"),
}  # fmt: skip


def test_a_rejected_prompt_is_an_answer_of_no_use(start: Start, path: Path) -> None:
    """All shapes in one run; the query is named, within the tolerance, and asked once a run."""
    requests = make_requests(100)
    on = {request.query: name for request, name in zip(requests[30:], OF_ONE, strict=False)}
    port, log = start(replies={name: reply for name, (reply, _) in OF_ONE.items()}, on=on)
    for run in (1, 2):
        told = Tally()
        records, figures, _ = teach(
            "zero_shot", {"zero_shot": requests}, with_teacher(port, 0.5, attempts=2), path, told
        )
        assert len(records) == figures["answers"] == 100 - len(on) and figures["missing"] == len(on)
        with Ledger(path) as ledger:
            outcome = {call.key: call.outcome for call in ledger.calls(request.key for request in requests)}
        for request, (name, (_, kind)) in zip(requests[30:], OF_ONE.items(), strict=False):
            assert outcome.get(request.key, "unanswered") == kind, name
            again = [call for call in calls(log) if call["content"] == request.query]
            assert len(again) == (2 if kind == "unanswered" else 1) * run, name
        assert told.counts["requests left out, their answer of no use: blocked"] == 12
        assert any("blocked (q30, q31, q32, …)" in line for line in told.lines()), told.lines()
    # Nothing was charged for what was rejected.
    assert figures["prompt_tokens"] == 100 * len(records)


def test_beyond_the_tolerance_query_and_words_are_told(start: Start, path: Path) -> None:
    requests = make_requests(20)
    port, log = start(replies={"risk": OF_ONE["deepseek"][0]}, on={"need 7": "risk"})
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 20 .* \(1 blocked; queries q7; to q7 came “Content Exists Risk”\)"):
            teach("zero_shot", {"zero_shot": requests}, with_teacher(port), path)
    assert len(calls(log)) == 21  # the blocked one again: it is free, and filters change


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error(402, "Insufficient Balance"), r"refused a request \(402\): Insufficient Balance"),
        (error(400, "Access denied, …", code="Arrearage"), r"\(400\): Access denied"),
        (error(429, "You exceeded …", code="insufficient_quota"), r"\(429\): You exceeded"),
        (error(200, "No auth credentials found", code=401), VARIABLE + r": .*\(401\): No auth"),
        (error(403, "Country not supported"), r"does not accept the key \(403\)"),
        ({"status": 404, "body": {"detail": "Not Found"}}, "Not Found: is the path in teacher.api.base_url right"),
        ({"status": 404, "body": "<html><title>404 Not Found</title>"}, "“404 Not Found”, not an API"),
        ({"body": "<!doctype html><title>a\x1b[31mpp</title>", "headers": {"Content-Type": "text/html"}}, "“app”, not an API"),
        ({"body": "\n<HTML><body>hello", "headers": {"Content-Type": "text/plain"}}, "with a web page, not an API"),
    ],
)  # fmt: skip
def test_what_concerns_every_request_stops_at_once(start: Start, path: Path, reply: dict[str, Any], said: str) -> None:
    port, log = start(replies={"all": reply}, faults={"all": 1.0})
    with Ledger(path) as ledger, pytest.raises(UserError, match=said):
        ask(make_requests(50), teacher(port, concurrency=4), "en", ledger)
    assert len(calls(log)) <= 4


def test_a_path_without_v1_is_suspected(start: Start, path: Path) -> None:
    port, _ = start()
    with Ledger(path) as ledger, pytest.raises(UserError, match=r"is /v1 missing in teacher.api.base_url\?"):
        ask(make_requests(9), teacher(port, base_url=f"http://127.0.0.1:{port}"), "en", ledger)


def test_a_web_page_on_the_way_may_pass(start: Start, path: Path) -> None:
    page = {"body": "<html>Be right back</html>", "headers": {"Content-Type": "text/html"}}
    port, log = start(replies={"page": page}, on={"need 3": "page"})
    with Ledger(path) as ledger:
        outcome = ask(make_requests(4), teacher(port, attempts=2, concurrency=1), "en", ledger)
    assert outcome.useless == {make_requests(4)[3].key: "unanswered"} and len(calls(log)) == 5


# Hopeless cases.


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"message": {"content": ""}}, r"10 empty; .*raise teacher.max_new_tokens"),
        ({"message": {"content": "", "reasoning_content": "hm"}}, "10 thinking; .*reasoning off"),
        ({"message": {"content": "快速排序是一种排序"}}, "10 language; to query q. came “快速排序是一种排序”.*collection.language"),
        (error(400, "Unsupported parameter: 'max_tokens'"), "10 rejected; .*“Unsupported parameter.*extra_body"),
        (OF_ONE["deepseek"][0], "10 blocked; .*“Content Exists Risk”"),
    ],
)  # fmt: skip
def test_a_hopeless_case_is_told_after_the_first(start: Start, path: Path, reply: dict[str, Any], said: str) -> None:
    port, log = start(replies={"all": reply}, faults={"all": 1.0}, latency=0.02)
    requests, asked = make_requests(60), teacher(port, concurrency=16)
    with Ledger(path) as ledger:
        with pytest.raises(UserError, match=rf"no request has brought an answer of use, of the first 10 .*{said}"):
            ask(requests, asked, "en", ledger)
        assert len({call["content"] for call in calls(log)}) == len(calls(log)) == 10
        for more in (1, 2):  # one more in each run, for the server may have been mended
            with pytest.raises(UserError, match=rf"of the first {10 + more} that were asked \({10 + more} "):
                ask(requests, asked, "en", ledger)
            assert len(calls(log)) == 10 + more


def test_a_mended_server_goes_on(start: Start, path: Path) -> None:
    requests = make_requests(30)
    port, _ = start(faults={"empty": 1.0})
    with Ledger(path) as ledger:
        with pytest.raises(UserError, match="no request has brought"):
            ask(requests, teacher(port), "en", ledger)
        port, log = start()
        assert len(ask(requests, teacher(port), "en", ledger).answers) == len(calls(log)) == 30


def test_answers_are_asked_for_so_often_in_all_runs_together(start: Start, path: Path) -> None:
    requests = make_requests(30)
    port, log = start(replies={"bad": {"message": {"content": ""}}}, on={"need 3": "bad"})
    with Ledger(path) as ledger:
        for _ in range(2):
            assert ask(requests, teacher(port), "en", ledger).useless == {requests[3].key: "empty"}
            assert len(calls(log)) == 32
        more = teacher(port).model_copy(update={"asks": 5})
        assert ask(requests, more, "en", ledger).calls == {"answer": 29, "empty": 5}


def test_a_server_that_turns_away_everything_later(start: Start, path: Path) -> None:
    """As one whose settings were changed: fresh requests, one after the other, in words that nobody knows."""
    requests = make_requests(100)
    port, log = start(replies={"no": error(400, "no")}, on={f"need {n}": "no" for n in range(40, 100)})
    with Ledger(path) as ledger, pytest.raises(UserError, match="rejects one request after the other: no: .*40 of 100"):
        ask(requests, teacher(port, concurrency=4), "en", ledger)
    assert len(calls(log)) <= 54


# Money.


def charged(prompt: int, completion: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def test_the_cost_limit_holds_whatever_a_server_charges(start: Start, path: Path) -> None:
    """A hundred times what was asked for, with sixteen under way: one call is seen before there are two."""
    port, log = start(replies={"dear": charged(1200, 6400)}, faults={"dear": 1.0}, latency=0.05)
    price = {"prompt": 10.0, "cached": 10.0, "completion": 100.0}
    each, limit = (1200 * 10 + 6400 * 100) / 1e6, 10.0
    requests, limited = make_requests(300), teacher(port, limit, prices=price, concurrency=16)
    with Ledger(path) as ledger, pytest.raises(UserError, match=r"teacher.max_cost 10 is reached \(9.* spent\)"):
        ask(requests, limited, "en", ledger)
    assert len(calls(log)) == int(limit / each) == 15


def test_useless_answers_are_paid_for_by_the_limit_in_all_runs(start: Start, path: Path) -> None:
    port, _ = start(replies={"bad": charged(60, 64) | {"message": {"content": ""}}}, faults={"bad": 0.5})
    price = {"prompt": 0.0, "cached": 0.0, "completion": 1000.0}
    requests, limited = make_requests(100), teacher(port, 6.5, prices=price, concurrency=16)
    with Ledger(path) as ledger:
        for _ in range(3):
            with pytest.raises(UserError, match="teacher.max_cost"):
                ask(requests, limited, "en", ledger)
    with sqlite3.connect(path) as db:
        (tokens,) = db.execute("SELECT SUM(completion_tokens) FROM calls").fetchone()
    assert 6.3 < tokens / 1000 <= 6.5


def test_what_another_process_asks_is_reserved_too(path: Path) -> None:
    first, second = make_requests(2)
    code = f"""
import time
from qedistill.generation.ledger import Ledger
ledger = Ledger({str(path)!r})
print(ledger.claim({second.key!r}), flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and "OURS" in other.stdout.readline()
    prices = Prices(prompt=0.0, cached=0.0, completion=1000.0)  # 0.064 a call
    with Ledger(path) as ledger:
        ledger.store(make_requests(3)[2], Answer("text", usage=Usage(9, 1)))
        budget = _Budget(ledger, make_requests(3), prices, 0.1)
        assert not budget.allows(first) and budget.waits
        other.kill()
        other.communicate()
        budget = _Budget(ledger, make_requests(3), prices, 0.1)
        assert not budget.waits and budget.allows(first) and not budget.allows(second)


MESSAGES = [{"role": "user", "content": "x" * 36}]  # 19 tokens


@pytest.mark.parametrize(
    ("told", "usage", "overruled"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}, (7, 5, 3), False),
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_cache_hit_tokens": 3}, (7, 5, 3), False),
        ({"prompt_tokens": 7.0, "completion_tokens": 5}, (7, 5, 0), False),
        (None, (19, 2, 0), False),
        ({}, (19, 2, 0), False),
        # async-openai #404: a total that excludes what the prompt holds.
        ({"prompt_tokens": 1151, "completion_tokens": -35, "total_tokens": 1116}, (1151, 2, 0), True),
        # CLIProxyAPI #5733, clarifai-python #978: reasoning is in the total alone.
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81}, (21, 60, 0), False),
        ({"prompt_tokens": 20, "completion_tokens": 424, "total_tokens": 1016}, (20, 996, 0), False),
        ({"prompt_tokens": 1e300, "completion_tokens": float("nan")}, (19, 2, 0), True),
        ({"prompt_tokens": float("inf"), "completion_tokens": 2**70}, (19, 2, 0), True),
        ({"prompt_tokens": "7", "completion_tokens": [5]}, (19, 2, 0), True),
        ({"prompt_tokens": True, "completion_tokens": 5.5}, (19, 2, 0), True),
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_cache_hit_tokens": 8}, (7, 5, 0), True),
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_cache_hit_tokens": -9}, (7, 5, 0), True),
        ("many", (19, 2, 0), False),
    ],
)
def test_no_count_of_tokens_is_believed_that_cannot_be(told: Any, usage: tuple[int, ...], overruled: bool) -> None:
    assert usage_of(told, MESSAGES, "a text ..") == (Usage(*usage), overruled)


def test_overruled_counts_are_told(start: Start, path: Path) -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": 1e300, "prompt_tokens_details": {"cached_tokens": 999}}
    port, _ = start(replies={"odd": {"usage": usage}}, faults={"odd": 1.0})
    told = Tally()
    _, figures, _ = teach("zero_shot", {"zero_shot": make_requests(3)}, with_teacher(port), path, told)
    assert figures["told"] == told.figures() == {"counts_of_tokens_overruled_not_to_be_believed": 3}
    assert figures["cost"] > 0 and figures["prompt_tokens"] == 3 * 11 and figures["cached_tokens"] == 0


def test_an_answer_that_was_broken_off_costs(start: Start, path: Path) -> None:
    port, _ = start(replies={"off": {"finish_reason": "error"} | charged(100, 20)}, on={"need 1": "off"})
    with Ledger(path) as ledger:
        outcome = ask(make_requests(3), teacher(port, attempts=2), "en", ledger)
    assert outcome.calls == {"answer": 2, "broken_off": 2} and outcome.usage.completion_tokens == 80
    assert outcome.useless == {make_requests(3)[1].key: "unanswered"}


# Streams.


def event(**chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


STREAM = (
    ": OPENROUTER PROCESSING\n\n"
    + event(choices=[{"delta": {"role": "assistant", "content": ""}}])
    + event(choices=[{"delta": {"reasoning_content": "so"}, "finish_reason": None}])
    + event(choices=[{"delta": {"content": "the passage "}}])
    + event(choices=[{"delta": {"content": "about 0"}, "finish_reason": "stop"}])
    + event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 4})
    + "data: [DONE]\n\n"
)


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace("\n", "\r\n"), STREAM.replace("data: ", "data:")])
def test_a_stream_is_read_as_the_answer_that_it_is(start: Start, path: Path, stream: str) -> None:
    reply = {"body": stream, "headers": {"Content-Type": "text/event-stream; charset=utf-8"}}
    port, _ = start(replies={"sse": reply}, faults={"sse": 1.0})
    with Ledger(path) as ledger:
        (given,) = ask(make_requests(1), teacher(port), "en", ledger).answers.values()
    assert (given.text, given.usage) == (answer("need 0"), Usage(9, 4))


def test_a_stream_that_broke_off_is_no_answer() -> None:
    with pytest.raises(ValueError, match="broke off"):
        read_body(STREAM.partition("about 0")[0].rpartition("data:")[0], "text/event-stream")
    with pytest.raises(ValueError):
        read_body(STREAM[: STREAM.index("about 0")], "text/event-stream")
    told = read_body('data: {"error": {"message": "overloaded"}}\n\n', "text/event-stream")
    assert words_of(told) == "overloaded"


def test_words_of_errors() -> None:
    assert words_of([{"error": {"code": 400, "message": "API key\x1b[2J not valid"}}]) == "API key not valid"  # Google
    assert words_of({"detail": [{"loc": ["body"], "msg": "field required"}]}) == "field required"  # FastAPI
    assert complaint(error(429, "Too many tokens, please wait before trying again.")["body"], 429) is None  # Bedrock
    assert complaint("<html>For your safety, this page is blocked</html>", 403) is None
    with pytest.raises(ValueError):
        read_body("[" * 100_000, "application/json")


# Secrets.


def test_a_key_that_a_server_repeats_is_nowhere(start: Start, path: Path) -> None:
    escaped = json.dumps(f"you said {KEY}").replace("secret-key", "secret\\u002dkey")
    whole = f'{{"choices": [{{"message": {{"content": {escaped}}}, "finish_reason": "stop"}}]}}'
    replies = {
        "echo": {"message": {"content": f"the header was Bearer {KEY}."}},
        "escaped": {"body": whole},
        "risk": error(400, f"content filter on {KEY}"),
        "stream": {"body": event(choices=[{"delta": {"content": KEY[:9]}}])
                   + event(choices=[{"delta": {"content": KEY[9:]}, "finish_reason": "stop"}])},
    }  # fmt: skip
    port, _ = start(replies=replies, on={"need 1": "echo", "need 2": "escaped", "need 3": "risk", "need 4": "stream"})
    told = Tally()
    requests = make_requests(8)
    records, figures, _ = teach("zero_shot", {"zero_shot": requests}, with_teacher(port, 0.9), path, told)
    with pytest.raises(UserError) as caught:
        teach("zero_shot", {"zero_shot": requests}, with_teacher(port, 0.0), path)
    assert records[1]["text"] == "the header was Bearer …." and records[2]["text"] == "you said …"
    everything = json.dumps([records, figures, told.lines(), caught.value.message]).encode() + path.read_bytes()
    wal = Path(f"{path}-wal")
    assert KEY.encode() not in everything + (wal.read_bytes() if wal.exists() else b"")
    assert b"content filter on" in everything


def test_a_word_is_no_key() -> None:
    assert redact("an EMPTY list of none", "EMPTY") == "an EMPTY list of none"
    assert redact(f"x{KEY}y", KEY) == "x…y"


def test_the_ledger_keeps_no_time(path: Path) -> None:
    """A call's order is the order in which they were made, also where the clock was set back."""
    (request,) = make_requests(1)
    clock = pytest.MonkeyPatch()
    with Ledger(path) as ledger:
        for at, problem in ((2e9, "empty"), (1e9, "refusal")):
            clock.setattr(time, "time", lambda at=at: at)
            ledger.store_useless(request, problem, Answer("", raw=problem))
        clock.undo()
        assert [call.outcome for call in ledger.calls([request.key])] == ["empty", "refusal"]
