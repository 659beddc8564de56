"""The API teacher and its ledger, against a real HTTP server that fails."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asker import VARIABLE, make_requests, teacher
from fault_server import KEY, answer

from qedistill.errors import UserError
from qedistill.generation.api import ask, cost, estimate
from qedistill.generation.client import _retry_after
from qedistill.generation.ledger import Claim, Ledger
from qedistill.generation.request import Answer, Request, Usage
from qedistill.params import Prices

HERE = Path(__file__).parent
Start = Callable[..., tuple[int, Path]]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def asker(path: Path, port: int, count: int, **changes: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, str(HERE / "asker.py"), str(path), str(port), str(count), json.dumps(changes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stored(path: Path) -> dict[str, float]:
    """Message → when its answer was stored, read without the code under test."""
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT messages, text, stored FROM answers").fetchall()
    for messages, text, _ in rows:
        assert text == answer(json.loads(messages)[0]["content"])
    return {json.loads(messages)[0]["content"]: at for messages, _, at in rows}


def test_every_fault_is_ridden_out(start: Start, path: Path) -> None:
    port, log = start()
    requests = make_requests(500)
    with Ledger(path) as ledger:
        outcome = ask(requests, teacher(port), "en", ledger)
    assert [outcome.answers[r.key].text for r in requests] == [answer(r.query) for r in requests]
    faults = Counter(call["fault"] for call in calls(log))
    assert {"429", "500", "hang", "json", "empty"} < faults.keys()
    # Each answer once: what the server sent whole is what was stored.
    assert faults[None] == 500 and outcome.calls == {"answer": 500, "empty": faults["empty"]}
    with Ledger(path) as ledger:
        again = ask(requests, teacher(port), "en", ledger)
    assert again.asked == 0 and again.answers == outcome.answers and len(calls(log)) == faults.total()


def test_kill_9_at_any_moment_loses_nothing(start: Start, path: Path) -> None:
    port, log = start()
    drawn = random.Random(3)
    kills = 0
    while kills < 20:
        before = len(calls(log))
        process = asker(path, port, 500)
        while len(calls(log)) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.25))
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    assert 0 < len(stored(path)) < 500
    process = asker(path, port, 500)
    output, errors = process.communicate(timeout=120)
    assert json.loads(output)["answers"] == 500, errors
    at = stored(path)
    assert len(at) == 500
    again = [call for call in calls(log) if call["at"] > at[call["content"]]]
    assert again == []


def test_two_processes_share_the_work(start: Start, path: Path) -> None:
    port, log = start(faults={}, latency=0.4)  # long enough for both to be at it on a busy machine
    both = [asker(path, port, 300) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [result["answers"] for result in results] == [300, 300]
    assert min(result["asked"] for result in results) > 50 and sum(result["asked"] for result in results) == 300
    assert max(Counter(call["content"] for call in calls(log)).values()) == 1


def test_a_wrong_key_is_told_at_once(start: Start, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, _ = start()
    monkeypatch.setenv(VARIABLE, "sk-wrong-and-secret")
    began = time.perf_counter()
    with Ledger(path) as ledger, pytest.raises(UserError) as error:
        ask(make_requests(50), teacher(port), "en", ledger)
    assert time.perf_counter() - began < 10
    assert error.value.message.startswith(f"{VARIABLE}: ") and "(401): Incorrect API key" in error.value.message
    assert "sk-wrong" not in error.value.message


def test_a_missing_key_names_its_variable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    with Ledger(path) as ledger, pytest.raises(UserError, match=f"{VARIABLE} is not set"):
        ask(make_requests(1), teacher(9), "en", ledger)


def test_no_server(path: Path) -> None:
    with Ledger(path) as ledger, pytest.raises(UserError, match="no server answers there"):
        ask(make_requests(50), teacher(9), "en", ledger)


def test_a_server_that_stops_answering(start: Start, path: Path) -> None:
    port, log = start(faults={"500": 1.0})
    with Ledger(path) as ledger, pytest.raises(UserError, match=r"has stopped answering: .*0 of 50 answers"):
        ask(make_requests(50), teacher(port, attempts=2, concurrency=4), "en", ledger)
    assert len(calls(log)) < 30


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("404", r"refused a request \(404\): model not found: m;"),
        ("daily", "asks to wait 1440 minutes: quota;"),
        ("overloaded", "has stopped answering: overloaded;"),
        ("broken", "has stopped answering: the server broke the answer off: insufficient_system_resource;"),
    ],
)
def test_the_server_is_heard(start: Start, path: Path, fault: str, said: str) -> None:
    port, _ = start(faults={fault: 1.0}, latency=0.0)
    with Ledger(path) as ledger, pytest.raises(UserError, match=said):
        ask(make_requests(30), teacher(port, attempts=2), "en", ledger)


def test_odd_contents(start: Start, path: Path) -> None:
    odd = {"message": {"content": "the passage\x00 about\x1b[31m\ufeff need"}}
    port, _ = start(faults={"parts": 0.5, "half": 0.5}, latency=0.0, replies={"odd": odd}, on={"need 7": "odd"})
    requests = make_requests(20)
    with Ledger(path) as ledger:
        outcome = ask(requests, teacher(port), "en", ledger)
    texts = {r.query: outcome.answers[r.key].text.rstrip("\ufffd") for r in requests}
    assert texts == {r.query: answer(r.query) for r in requests} | {"need 7": "the passage about need"}
    assert "\x1b" not in outcome.answers[requests[7].key].raw


def test_a_filtered_answer_is_a_refusal(start: Start, path: Path) -> None:
    port, _ = start(faults={"filter": 1.0}, latency=0.0)
    with Ledger(path) as ledger:
        assert ask(make_requests(2), teacher(port), "en", ledger).calls == {"refusal": 6}


def test_two_queries_of_the_same_text_are_asked_once(start: Start, path: Path) -> None:
    port, log = start(faults={})
    (first,) = make_requests(1)
    twin = Request(**(vars(make_requests(1)[0]) | {"query_id": "twin"}))
    with Ledger(path) as ledger:
        outcome = ask([first, twin], teacher(port), "en", ledger)
    assert len(calls(log)) == 1 and outcome.asked == 1 and first.key == twin.key in outcome.answers


def test_a_limit_holds_nobody_up_once_all_stops(start: Start, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, _ = start()
    monkeypatch.setenv(VARIABLE, "sk-wrong")
    began = time.perf_counter()
    with Ledger(path) as ledger, pytest.raises(UserError, match="401"):
        ask(make_requests(50), teacher(port, requests_per_minute=6), "en", ledger)
    assert time.perf_counter() - began < 8


def test_what_is_no_key_is_not_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sk-first\nsecond")
    with Ledger(path) as ledger, pytest.raises(UserError, match=f"{VARIABLE} holds no key") as error:
        ask(make_requests(1), teacher(9), "en", ledger)
    assert "first" not in error.value.message


def test_no_vendor_is_told_of_openai(start: Start, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    port, log = start(faults={})
    with Ledger(path) as ledger:
        ask(make_requests(1), teacher(port), "en", ledger)
    assert "headers" not in calls(log)[0]


def test_useless_answers_are_asked_for_again_and_counted(start: Start, path: Path) -> None:
    port, log = start(faults={"empty": 1.0})
    requests = make_requests(5)
    with Ledger(path) as ledger:
        outcome = ask(requests, teacher(port), "en", ledger)
        assert outcome.answers == {} and outcome.useless == {r.key: "empty" for r in requests}
        assert outcome.calls == {"empty": 15} and len(calls(log)) == 15
        assert outcome.usage == Usage(1500, 300, 600)  # they were paid for


def test_the_estimate_stops_before_the_first_call(start: Start, path: Path) -> None:
    port, log = start(faults={})
    requests = make_requests(100)
    most = sum(cost(estimate(r), teacher(port).api.prices) for r in requests)
    with Ledger(path) as ledger:
        with pytest.raises(UserError, match=r"teacher.max_cost is .* 100 answers still to be asked may cost up to"):
            ask(requests, teacher(port, most * 0.99), "en", ledger)
        with pytest.raises(UserError, match="150 answers"):  # those of the other style count
            ask(requests, teacher(port, most * 1.01), "en", ledger, others=make_requests(150)[100:])
        assert calls(log) == []
        ask(requests, teacher(port, most * 1.01), "en", ledger)


def test_the_cost_limit_stops_and_keeps(start: Start, path: Path) -> None:
    port, log = start(faults={})
    # 100 prompt tokens a call where some 12 were estimated.
    price = {"prompt": 1000.0, "cached": 1000.0, "completion": 0.0}
    requests, limited = make_requests(100), teacher(port, 5.0, prices=price, concurrency=4)
    with Ledger(path) as ledger:
        with pytest.raises(UserError, match=r"teacher.max_cost 5 is reached .*; (\d+) of 100 answers came and are in"):
            ask(requests, limited, "en", ledger)
        kept = len(ledger.answers(r.key for r in requests))
        assert 40 <= kept == len(calls(log)) <= 54  # what is under way is awaited
        with pytest.raises(UserError, match="teacher.max_cost is 5, but"):
            ask(requests, limited, "en", ledger)
        ask(requests, teacher(port, prices=price), "en", ledger)
    assert len(calls(log)) == 100


def test_ctrl_c_awaits_what_is_under_way(start: Start, path: Path) -> None:
    port, log = start(faults={}, latency=0.3)
    process = asker(path, port, 500)
    while len(calls(log)) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0 and "interrupted" in errors and "run it again to go on" in errors
    assert len(stored(path)) == len(calls(log))


def test_a_request_limit_is_kept(start: Start, path: Path) -> None:
    port, log = start(faults={}, latency=0.0)
    with Ledger(path) as ledger:
        ask(make_requests(12), teacher(port, requests_per_minute=300), "en", ledger)
    times = [call["at"] for call in calls(log)]
    assert times[-1] - times[0] >= 11 * 60 / 300 * 0.9


def test_a_token_limit_is_kept(start: Start, path: Path) -> None:
    port, log = start(faults={}, latency=0.0)
    requests = make_requests(12)
    each = estimate(requests[-1])
    tokens = each.prompt_tokens + each.completion_tokens
    with Ledger(path) as ledger:
        # A bucket of six requests, which fills again by one a second.
        ask(requests[:11], teacher(port, tokens_per_minute=tokens * 60), "en", ledger)
    times = [call["at"] for call in calls(log)]
    assert times[-1] - times[0] >= 4.0


def test_retry_after_is_seconds_a_date_or_milliseconds() -> None:
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    assert _retry_after({"retry-after": "2.5"}) == 2.5
    assert _retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    in_ten = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
    assert 8 < _retry_after({"retry-after": in_ten}) <= 10
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert _retry_after({"retry-after": "inf"}) is None
    assert _retry_after({"retry-after": "soon"}) is None and _retry_after({}) is None


def test_cost() -> None:
    prices = Prices(prompt=1.0, cached=0.1, completion=2.0)
    # 600,000 fresh, 400,000 cached, 500,000 written.
    assert cost(Usage(1_000_000, 500_000, 400_000), prices) == pytest.approx(0.6 + 0.04 + 1.0)
    assert cost(Usage(1, 1, 1), None) == 0.0


def test_a_chinese_prompt_has_a_token_a_character() -> None:
    request = Request("q", "", "zero_shot", 0, "m", [{"role": "user", "content": "北京在哪里" * 10}], {"max_tokens": 7})
    assert estimate(request) == Usage(60, 7)


# The ledger.


def test_the_key_is_of_all_that_determines_the_answer() -> None:
    request = make_requests(1)[0]
    changes: list[dict[str, Any]] = [
        {"sample": 1}, {"model": "n"}, {"options": {"temperature": 0.7, "max_tokens": 64}},
        {"messages": [{"role": "user", "content": "else"}]},
    ]  # fmt: skip
    keys = {Request(**(vars(make_requests(1)[0]) | change)).key for change in changes}
    assert len(keys | {request.key}) == 5
    # Names of the asker do not determine it, nor does the order of options.
    same = {"query_id": "other", "style": "few_shot", "options": {"max_tokens": 64, "temperature": 0.8}}
    assert Request(**(vars(make_requests(1)[0]) | same)).key == request.key


def test_a_stored_answer_is_never_replaced(path: Path) -> None:
    (request,) = make_requests(1)
    with Ledger(path) as ledger:
        ledger.store(request, Answer("first", ["label"], "Passage: first", Usage(3, 2, 1), 0.5))
        ledger.store(request, Answer("second"))
    with Ledger(path) as ledger:
        assert ledger.answers([request.key]) == {
            request.key: Answer("first", ["label"], "Passage: first", Usage(3, 2, 1), 0.5)
        }


def test_claims_end_with_their_process(path: Path) -> None:
    (request,) = make_requests(1)
    code = f"""
import sys, time
from qedistill.generation.ledger import Ledger
ledger = Ledger({str(path)!r})
print(ledger.claim({request.key!r}), flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and "OURS" in other.stdout.readline()
    with Ledger(path) as ledger:
        assert ledger.claim(request.key) is Claim.TAKEN
        other.kill()
        other.communicate()
        assert ledger.claim(request.key) is Claim.OURS
        ledger.store(request, Answer("text"))
        assert ledger.claim(request.key) is Claim.ANSWERED


def test_many_open_a_new_ledger_at_once(path: Path) -> None:
    failures = []

    def work(number: int) -> None:
        try:
            with Ledger(path) as ledger:
                ledger.store(make_requests(20)[number], Answer(str(number)))
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger(path) as ledger:
        assert failures == [] and len(ledger.answers(r.key for r in make_requests(20))) == 20


def filled(path: Path) -> bytes:
    with Ledger(path) as ledger:
        for request in make_requests(200):
            ledger.store(request, Answer("text " * 50))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "not a whole ledger"),
        (lambda whole: whole[:50], "not a whole ledger"),
        (lambda whole: b"", "not a whole ledger"),
        (lambda whole: b"hello, world\n" * 100, "not a whole ledger"),
        (lambda whole: whole[:60] + (9).to_bytes(4, "big") + whole[64:], "a ledger of version 9"),
        (lambda whole: whole[:68] + bytes(4) + whole[72:], "no ledger of qedistill"),
    ],
)
def test_a_damaged_or_foreign_file_is_left_as_it_is(path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    bad = damage(filled(path))
    path.write_bytes(bad)
    with pytest.raises(UserError, match=message):
        Ledger(path)
    assert path.read_bytes() == bad


@pytest.mark.parametrize("room", [0, 1, 600, 4096, 4500, 8192, 12000, 16384, 20000, 24576])
def test_a_disk_too_full_for_a_ledger_keeps_none(path: Path, room: int) -> None:
    """The kernel lets no file grow beyond `room` bytes, as a full disk does."""
    code = f"""
import resource, signal
from pathlib import Path
from qedistill.errors import UserError
from qedistill.generation.ledger import Ledger
path = Path({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, limits[1]))
try:
    Ledger(path).close()
except UserError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"({path}: .*cannot be (made|read or written): .*\n)?", done.stdout), done.stdout
    if done.stdout and "made" in done.stdout:
        assert list(path.parent.iterdir()) == []
    with Ledger(path) as ledger:  # once there is room again
        ledger.store(make_requests(1)[0], Answer("text"))


def test_a_ledger_that_was_cut_while_it_was_made_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a disk that has room for the log and none for what SQLite copies from it at the end, in silence."""
    from contextlib import closing, contextmanager

    @contextmanager
    def cut(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        with closing(db):
            yield db
        for draft in path.parent.glob(".qedistill-draft-*/ledger.db"):
            os.truncate(draft, 8192)

    monkeypatch.setattr("qedistill.generation.ledger.closing", cut)
    with pytest.raises(UserError, match="the ledger cannot be made: "):
        Ledger(path)
    assert list(path.parent.iterdir()) == []


def test_a_foreign_file_keeps_its_log(path: Path, tmp_path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.store(make_requests(1)[0], Answer("text"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"other.db{suffix}")
    other, log = tmp_path / "other.db", tmp_path / "other.db-wal"
    whole = other.read_bytes()
    other.write_bytes(whole[:60] + (9).to_bytes(4, "big") + whole[64:])
    before = other.read_bytes(), log.read_bytes()
    with pytest.raises(UserError):
        Ledger(other)
    assert (other.read_bytes(), log.read_bytes()) == before
    other.unlink()
    with pytest.raises(UserError, match="is the log of a ledger that is not here"):
        Ledger(other)
    assert log.read_bytes() == before[1]


def test_a_log_left_by_a_kill_is_part_of_the_ledger(path: Path, tmp_path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.store(make_requests(1)[0], Answer("text"))
        # As a kill leaves it: the answer is in the write-ahead log alone.
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"copy.db{suffix}")
    with Ledger(tmp_path / "copy.db") as copy:
        assert len(copy.answers([make_requests(1)[0].key])) == 1


def test_stats(path: Path) -> None:
    first, second = make_requests(2)
    with Ledger(path) as ledger:
        assert ledger.stats() == []
        ledger.store(first, Answer("text", usage=Usage(10, 5, 2)))
        ledger.store_useless(second, "refusal", Answer("", raw="No.", usage=Usage(10, 1)))
        (row,) = ledger.stats()
    assert (row.model, row.answers, row.calls, row.usage) == ("m", 1, {"answer": 1, "refusal": 1}, Usage(20, 6, 2))
    assert abs(row.last - time.time()) < 60 and os.environ[VARIABLE] not in str(row)
