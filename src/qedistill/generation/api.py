"""A teacher behind any OpenAI-compatible chat endpoint: a vendor's API, vLLM, llama.cpp, `transformers serve`."""

import asyncio
import json
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qedistill.errors import UserError
from qedistill.generation.checks import examine
from qedistill.generation.client import TEACHER, Client, NoAnswer, Refused, Rejected
from qedistill.generation.endings import ending
from qedistill.generation.languages import in_language
from qedistill.generation.ledger import Call, Claim, Ledger
from qedistill.generation.replies import complaint, words_of
from qedistill.generation.request import Answer, Outcome, Request, Usage, tokens_of, usage_of
from qedistill.params import Prices, Teacher
from qedistill.progress import calls_bar
from qedistill.tally import Tally
from qedistill.words import clean, one_line

_NO_LIMIT = 1000  # tokens of a completion that has no limit, as an estimate
_TEMPLATE = 64  # tokens that a chat template adds, at most
_LOST = 5  # requests in a row, at least, that get no answer before the server is given up
_FIRST = 10  # requests without an answer of use, and none with one, before the case is given up as hopeless
_POLL = 0.5  # seconds between looks for what other processes are asking
_GLANCE = 0.05  # seconds between looks for what this one is
# Outcomes of calls that are no answers: nothing was written, or not to the end.
_NOT_ANSWERED = {"blocked", "too_long", "rejected", "broken_off"}
# What a user can do where answers are of no use.
_MENDS = {
    "empty": "raise teacher.max_new_tokens, which reasoning may use up, or see to the server's chat template",
    "thinking": "switch the model's reasoning off in teacher.api.extra_body, or raise teacher.max_new_tokens",
    "cut": "raise teacher.max_new_tokens",
    "language": "see to collection.language and to the prompt",
    "blocked": "ask another vendor",
    "too_long": "lower teacher.exemplars.max_tokens or teacher.max_new_tokens",
    "rejected": "see to teacher.model and teacher.api.extra_body",
    "unanswered": "run it again",
    "broken_off": "run it again",
}


def mend(problem: str) -> str:
    """What a user can do where answers are of no use."""
    return _MENDS.get(problem, "see to the prompt and to teacher.model")


def ask(
    requests: Sequence[Request],
    teacher: Teacher,
    language: str,
    ledger: Ledger,
    others: Sequence[Request] = (),
    told: Tally | None = None,
) -> Outcome:
    """Answers to all requests, those in the ledger first; the others are asked, each stored the moment it arrives.

    Rate limits (429), server errors, timeouts, broken connections and unreadable answers are tried again, after as long
    as the server says, else after an exponentially growing random time. An answer of no use is asked for again, after
    all others, `teacher.asks` times in all runs together; what the server rejects for the prompt's sake is asked once a
    run. On Ctrl-C, a fatal error or at the cost limit, what is under way is awaited and stored, and nothing new is asked.

    Args:
        language: of the collection, for the checks.
        others: requests of the same teacher that count towards `teacher.max_cost` too, but are not asked.
        told: where to count what was overruled; by default in the outcome alone.

    Raises:
        UserError: the key is missing, the server refuses, cannot be reached or stops answering, the first answers are
            all of no use, the cost would exceed or has reached `teacher.max_cost`, or Ctrl-C was pressed. Answers that
            came are in the ledger.
    """
    in_language("", language)  # its model takes a second to load, in which answers under way would time out
    keys = {request.key for request in requests}
    known = ledger.answers(keys)
    outcome = Outcome(known, told=told or Tally())
    before = [call for call in ledger.calls(keys) if call.key not in known]
    asks = Counter(call.key for call in before if call.outcome not in _NOT_ANSWERED)
    # Two queries of the same text are one request. Those that were asked least come first.
    tried = Counter(call.key for call in before)
    missing = sorted({r.key: r for r in requests if r.key not in known}.values(), key=lambda r: tried[r.key])
    for call in before:
        if asks[call.key] >= teacher.asks and call.outcome not in _NOT_ANSWERED:
            outcome.useless[call.key], outcome.said[call.key] = call.outcome, call.raw
    if missing := [request for request in missing if asks[request.key] < teacher.asks]:
        budget = _Budget(ledger, [*requests, *others], teacher.api.prices, teacher.max_cost)
        budget.check()
        asyncio.run(_Asking(missing, teacher, language, ledger, budget, outcome, before, asks).run())
        outcome.answers = ledger.answers(keys)
    for call in ledger.calls(keys):
        outcome.usage += call.usage
        outcome.calls[call.outcome] += 1
    return outcome


def estimate(request: Request) -> Usage:
    """Tokens a request may take: its prompt's, estimated, and a completion up to its limit."""
    limit = request.options.get("max_completion_tokens") or request.options.get("max_tokens") or _NO_LIMIT
    return Usage(tokens_of(request.messages), int(limit))


def _total(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def cost(usage: Usage, prices: Prices | None) -> float:
    """The price of tokens; 0 where there are no prices."""
    if prices is None:
        return 0.0
    fresh = usage.prompt_tokens - usage.cached_tokens
    parts = (fresh, prices.prompt), (usage.cached_tokens, prices.cached), (usage.completion_tokens, prices.completion)
    return sum(tokens * price for tokens, price in parts) / 1e6


class _Budget:
    """Keeps what the calls for some requests cost, in all runs and with what is under way, within a limit.

    A call is reserved at the most it can cost: a token for each byte of its prompt, a completion up to its limit. Where a
    server was seen to charge more, all further ones are reserved at that rate, and until one was seen, one is asked at a
    time.
    """

    def __init__(self, ledger: Ledger, requests: Sequence[Request], prices: Prices | None, limit: float | None) -> None:
        self.ledger, self.prices, self.limit = ledger, prices, limit
        self._requests = {request.key: request for request in requests}
        self._pending: set[str] = set()
        self._elsewhere: set[str] = set()  # asked by other processes
        self._rate = 1.0  # of what was charged to what was reserved, at most
        self._seen = False
        self.used = Usage()  # in this run
        self.spent = 0.0  # by all processes
        self._refresh()

    def check(self) -> None:
        """Raise a UserError where the requests may come to cost more than the limit."""
        known = self.ledger.answers(self._requests)
        open_ = [request for key, request in self._requests.items() if key not in known]
        more = sum(cost(estimate(request), self.prices) for request in open_)
        if self.limit is not None and self.spent + more > self.limit:
            raise UserError(
                f"teacher.max_cost is {self.limit:g}, but {len(open_)} answers still to be asked may cost up to {more:.4f} "
                f"(estimated; {self.spent:.4f} is spent): raise it, or lower teacher.samples or teacher.max_new_tokens; "
                "what is in the ledger is not asked again"
            )

    def allows(self, request: Request) -> bool:
        """Reserve what a request may cost, if the limit allows it."""
        if self.limit is not None:
            if time.monotonic() - self._read_at > _POLL:
                self._refresh()
            under_way = self._pending | self._elsewhere
            wanted = sum(self._most(self._requests[key]) for key in under_way | {request.key})
            if (under_way and not self._seen) or self.spent + wanted * self._rate > self.limit:
                return False
        self._pending.add(request.key)
        return True

    @property
    def waits(self) -> bool:
        """Whether calls are under way that may turn out cheaper than reserved."""
        return bool(self._pending | self._elsewhere)

    def settle(self, request: Request) -> None:
        """A reserved request is over, whatever came of it."""
        self._pending.discard(request.key)

    def spend(self, request: Request, usage: Usage) -> None:
        """Count a call."""
        self.used += usage
        self.spent += cost(usage, self.prices)
        self._learn(request, usage)

    def _most(self, request: Request) -> float:
        prompt = sum(len(message["content"].encode(errors="replace")) + _TEMPLATE for message in request.messages)
        return cost(Usage(prompt, estimate(request).completion_tokens), self.prices)

    def _learn(self, request: Request, usage: Usage) -> None:
        if most := self._most(request):
            self._rate = max(self._rate, cost(usage, self.prices) / most)
        self._seen = True

    def _refresh(self) -> None:
        # Another process may ask for the same.
        calls = [call for call in self.ledger.calls(self._requests) if call.usage != Usage()]
        self.spent = sum(cost(call.usage, self.prices) for call in calls)
        for call in calls:
            self._learn(self._requests[call.key], call.usage)
        self._elsewhere = self.ledger.asked_elsewhere(self._requests)
        self._read_at = time.monotonic()


class _Asking:
    """One run of `ask`: workers that take requests from a queue until it is empty or something stops them.

    Until a first answer is of use, no more than `_FIRST` requests are asked, in all runs together, but one in each run.
    """

    def __init__(
        self, requests: Sequence[Request], teacher: Teacher, language: str, ledger: Ledger, budget: _Budget,
        outcome: Outcome, before: Sequence[Call], asks: Counter[str],
    ) -> None:  # fmt: skip
        self.teacher, self.api, self.language, self.ledger = teacher, teacher.api, language, ledger
        self.budget, self.outcome, self.requests = budget, outcome, requests
        self.client = Client(teacher.api, TEACHER, max(_total(estimate(request)) for request in requests))
        self._queue = deque(requests)
        self._asks = asks  # answered calls, those of earlier runs too
        self._proven = bool(outcome.answers)  # an answer of use has come
        self._before = {call.key: call.outcome for call in before}  # what came in earlier runs
        self._first = max(1, _FIRST - len(self._before))
        self._room = self._first  # requests that may be asked before that
        self._barren: set[str] = set()  # requests of this run that brought an answer, and none of use
        self._lost_in_a_row = 0
        self._taken_in_a_row = 0
        self._rejected_in_a_row = 0
        self._useless = 0  # answers
        self._error: Exception | None = None

    async def run(self) -> None:
        with self._ctrl_c(), calls_bar("Asking", len(self._queue)) as self._bar:
            async with self.client.opened():
                await asyncio.gather(*(self._worker() for _ in range(self.api.concurrency)))
        if self._error:
            raise self._error
        if self.client.why:
            stored = len(self.ledger.answers(request.key for request in self.requests))
            kept = f"{stored} of {len(self.requests)} answers came and are in the ledger ({self.ledger.path.name})"
            raise UserError(f"{self.client.why}; {kept}: run it again to go on, they are not asked for again")

    async def _worker(self) -> None:
        queue = self._queue
        while await self._may(lambda: not queue or self._proven or self._room > 0) and queue:
            request = queue.popleft()
            if not self.budget.allows(request):
                queue.appendleft(request)
                if not self.budget.waits:
                    limit, spent = self.budget.limit, self.budget.spent
                    self.client.halt(f"teacher.max_cost {limit:g} is reached ({spent:.4f} spent); raise it")
                await self.client.sleep(_GLANCE, quietly=True)
                continue
            claim = self.ledger.claim(request.key)
            self._taken_in_a_row = self._taken_in_a_row + 1 if claim is Claim.TAKEN else 0
            if claim is Claim.OURS:
                try:
                    await self._ask(request)
                except NoAnswer:
                    pass
                except Exception as error:  # noqa: BLE001 - the others' answers are awaited before it is raised
                    self._error = self._error or error
                    self.client.halt("an answer could not be stored")
                finally:
                    self.ledger.release(request.key)
            self.budget.settle(request)
            if claim is Claim.ANSWERED:  # by another process since this one looked
                self._proven = True
                self._progress(1)
            if claim is Claim.TAKEN:
                queue.append(request)
                if self._taken_in_a_row > len(queue):  # nothing but those is left
                    await self.client.sleep(_POLL, quietly=True)

    async def _may(self, ready: Callable[[], bool]) -> bool:
        """Wait until something holds; whether it does, for all may be stopped before."""
        while not ready() and not self.client.stopped:
            await self.client.sleep(_GLANCE, quietly=True)
        return not self.client.stopped

    async def _ask(self, request: Request) -> None:
        """Ask once and store what comes; where that is of no use, the request goes to the end of the queue."""
        self._room -= request.key not in self._barren
        try:
            answer, problem = await self._answer(request)
        except Rejected as error:
            self._reject(request, error.kind, str(error))
            return
        self.outcome.asked += 1
        self.budget.spend(request, answer.usage)
        self._rejected_in_a_row = 0
        if problem is None:
            self.ledger.store(request, answer)
            self.outcome.useless.pop(request.key, None)
            self._proven = True
            self._progress(1)
            return
        self.ledger.store_useless(request, problem, answer)
        self._useless += 1
        self._asks[request.key] += 1
        again = problem not in _NOT_ANSWERED and self._asks[request.key] < self.teacher.asks
        if again:
            self._queue.append(request)
        self._leave(request, problem, answer.raw, done=not again)

    def _reject(self, request: Request, kind: str, said: str) -> None:
        """Note that the server does not want a request, and stop where it seems to want none of these."""
        self.ledger.store_useless(request, kind, Answer("", raw=said))
        if kind == "rejected" and self._before.get(request.key) != kind:
            self._rejected_in_a_row += 1
        self._leave(request, kind, said)
        if self._rejected_in_a_row >= _FIRST:
            self.client.halt(f"{self.api.base_url} rejects one request after the other: {said}: {mend(kind)}")

    def _leave(self, request: Request, problem: str, said: str, done: bool = True) -> None:
        """Go on without an answer of use to a request, unless none has one."""
        self.outcome.useless[request.key], self.outcome.said[request.key] = problem, said
        self._progress(int(done))
        if problem != "unanswered":
            self._barren.add(request.key)
        if not self._proven and len(self._barren) >= self._first:
            kinds = Counter((self._before | self.outcome.useless).values()).most_common()
            named = ", ".join(f"{count} {kind}" for kind, count in kinds)
            self.client.halt(
                f"no request has brought an answer of use, of the first {len(self._before | self.outcome.useless)} that "
                f"were asked ({named}; to query {request.query_id} came “{one_line(said)[:80]}”): {mend(kinds[0][0])}"
            )

    async def _answer(self, request: Request) -> tuple[Answer, str | None]:
        """One answer and, where it is of no use, why."""
        body = {"model": request.model, "messages": request.messages, "stream": False} | request.options

        def read(told: Any, seconds: float) -> tuple[Answer, str | None]:
            return self._read(told, request, seconds)

        try:
            answered = await self.client.call("POST", "/chat/completions", read, body, _total(estimate(request)))
        except Refused as error:
            self.client.halt(str(error))
            raise
        except Rejected:
            raise
        except NoAnswer as error:
            if said := str(error):
                self._lose(request, said)
            raise
        self._lost_in_a_row = 0
        return answered

    def _read(self, body: Any, request: Request, seconds: float) -> tuple[Answer, str | None]:
        """The answer in a chat completion and, where it is of no use, why.

        Raises:
            ValueError: the body is no chat completion, or one that the server broke off.
        """
        try:
            if not isinstance(body, dict):
                raise TypeError(f"a {type(body).__name__}")
            if "choices" not in body:
                said = words_of(body) or f"not a chat completion: {json.dumps(body)[:80]}"
                raise Rejected(said, complaint(body) or "rejected")
            choice = (body["choices"] or [{}])[0]
            message, reason = choice.get("message") or {}, choice.get("finish_reason")
            content = _text(message.get("content"))
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            written = content + (reasoning if isinstance(reasoning, str) else "")
            usage, overruled = usage_of(body.get("usage"), request.messages, written)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ValueError(words_of(body) or f"not a chat completion: {error!r}") from None
        if overruled:
            self.outcome.told.add("counts of tokens overruled: not to be believed", request.query_id)
        ended = ending(reason)
        if ended == "broken":
            self._break_off(request, Answer("", raw=content, usage=usage))
            raise ValueError(f"the server broke the answer off: {reason}")
        if not body.get("choices"):
            told = usage if body.get("usage") else Usage()  # nothing was written: no estimate
            return Answer("", raw=words_of(body), usage=told), "blocked" if complaint(body) == "blocked" else "empty"
        text, cleaned, problem = examine(content, request.query, self.language, ended == "cut", self.teacher.max_words)
        if ended == "refusal" or (message.get("refusal") and not content):
            problem = "refusal"
        elif not text and problem in ("empty", "cut") and reasoning:
            problem = "thinking"
        return Answer(text, cleaned, content, usage, seconds), problem

    def _break_off(self, request: Request, answer: Answer) -> None:
        """Count an answer that did not come to its end: it may cost as well."""
        self.ledger.store_useless(request, "broken_off", answer)
        self.budget.spend(request, answer.usage)

    def _lose(self, request: Request, last: str) -> None:
        """Go on without an answer, unless no request gets one any more."""
        self._room += 1
        self._leave(request, "unanswered", last)
        self._lost_in_a_row += 1
        if not self.client.answered:
            self.client.halt(f"teacher.api.base_url {self.api.base_url}: no server answers there: {last}")
        elif self._lost_in_a_row >= max(self.api.concurrency, _LOST):
            self.client.halt(f"{self.api.base_url} has stopped answering: {last}")

    def _progress(self, done: int) -> None:
        tokens = self.budget.used.prompt_tokens + self.budget.used.completion_tokens
        self._bar(done, tokens, self.budget.spent if self.budget.prices else None, self._useless)

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """On the first Ctrl-C, ask nothing new and await what is under way; the second ends at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self.client.halt("interrupted")
            loop.remove_signal_handler(signal.SIGINT)

        try:
            loop.add_signal_handler(signal.SIGINT, stop)
        except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, as in a notebook
            yield
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


def _text(content: Any) -> str:
    """The content of a message: a text, nothing, or parts of which some are text.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise ValueError(f"its content is a {type(content).__name__}")
    return clean(content or "")
