"""A teacher behind any OpenAI-compatible chat endpoint: a vendor's API, vLLM, llama.cpp, `transformers serve`."""

import asyncio
import json
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qedistill.errors import UserError
from qedistill.generation.checks import examine
from qedistill.generation.client import TEACHER, Client, NoAnswer, Refused, words_of
from qedistill.generation.endings import ending
from qedistill.generation.languages import in_language
from qedistill.generation.ledger import Claim, Ledger
from qedistill.generation.request import Answer, Outcome, Request, Usage, tokens_in, tokens_of
from qedistill.params import Prices, Teacher
from qedistill.progress import calls_bar

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_NO_LIMIT = 1000  # tokens of a completion that has no limit, as an estimate
_LOST = 5  # requests in a row, at least, that get no answer before the server is given up
_POLL = 0.5  # seconds between looks for what other processes are asking


def ask(
    requests: Sequence[Request], teacher: Teacher, language: str, ledger: Ledger, others: Sequence[Request] = ()
) -> Outcome:
    """Answers to all requests, those in the ledger first; the others are asked, each stored the moment it arrives.

    Rate limits (429), server errors, timeouts, broken connections and unreadable answers are tried again, after as long
    as the server says, else after an exponentially growing random time. On Ctrl-C, a fatal error or at the cost limit,
    what is under way is awaited and stored, and nothing new is asked.

    Args:
        language: of the collection, for the checks.
        others: requests of the same teacher that count towards `teacher.max_cost` too, but are not asked.

    Raises:
        UserError: the key is missing, the server refuses, cannot be reached or stops answering, the cost would exceed or
            has reached `teacher.max_cost`, or Ctrl-C was pressed. Answers that came are in the ledger.
    """
    in_language("", language)  # its model takes a second to load, in which answers under way would time out
    known = ledger.answers(request.key for request in requests)
    # Two queries of the same text are one request.
    missing = list({request.key: request for request in requests if request.key not in known}.values())
    outcome = Outcome(known)
    if missing:
        budget = _Budget(ledger, [*requests, *others], teacher.api.prices, teacher.max_cost)
        budget.check()
        asyncio.run(_Asking(missing, teacher, language, ledger, budget, outcome).run())
        outcome.answers = ledger.answers(request.key for request in requests)
    outcome.usage, outcome.calls = ledger.calls(request.key for request in requests)
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
    """Keeps what the calls for some requests cost, in all runs and with what is under way, within a limit."""

    def __init__(self, ledger: Ledger, requests: Sequence[Request], prices: Prices | None, limit: float | None) -> None:
        self.ledger, self.prices, self.limit = ledger, prices, limit
        self._requests = {request.key: request for request in requests}
        self._pending: dict[str, float] = {}
        self.used = Usage()  # in this run
        self.spent = 0.0  # by all processes
        self._read_at = 0.0
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
        if self.limit is not None and time.monotonic() - self._read_at > _POLL:
            self._refresh()
        wanted = cost(estimate(request), self.prices)
        if self.limit is not None and self.spent + sum(self._pending.values()) + wanted > self.limit:
            return False
        self._pending[request.key] = wanted
        return True

    def settle(self, request: Request) -> None:
        """A reserved request is over, whatever came of it."""
        self._pending.pop(request.key, None)

    def spend(self, usage: Usage) -> None:
        self.used += usage
        self.spent += cost(usage, self.prices)

    def _refresh(self) -> None:
        # Another process may ask for the same.
        usage, _ = self.ledger.calls(self._requests)
        self.spent, self._read_at = cost(usage, self.prices), time.monotonic()


class _Asking:
    """One run of `ask`: workers that take requests from a queue until it is empty or something stops them."""

    def __init__(
        self, requests: Sequence[Request], teacher: Teacher, language: str, ledger: Ledger, budget: _Budget,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        self.teacher, self.api, self.language, self.ledger = teacher, teacher.api, language, ledger
        self.budget, self.outcome, self.requests = budget, outcome, requests
        self.client = Client(teacher.api, TEACHER, max(_total(estimate(request)) for request in requests))
        self._lost_in_a_row = 0
        self._taken_in_a_row = 0
        self._useless = 0  # answers
        self._unanswered: dict[str, tuple[str, str]] = {}  # key → query id, last error
        self._error: Exception | None = None

    async def run(self) -> None:
        queue = deque(self.requests)
        with self._ctrl_c(), calls_bar("Asking", len(queue)) as self._bar:
            async with self.client.opened():
                await asyncio.gather(*(self._worker(queue) for _ in range(self.api.concurrency)))
        if self._error:
            raise self._error
        self._report()

    def _report(self) -> None:
        """Raise a UserError where not every request was seen to."""
        stored = len(self.ledger.answers(request.key for request in self.requests))
        kept = f"{stored} of {len(self.requests)} answers came and are in the ledger ({self.ledger.path.name})"
        if self.client.why:
            raise UserError(f"{self.client.why}; {kept}: run it again to go on, they are not asked for again")
        if self._unanswered:
            query, last = next(iter(self._unanswered.values()))
            raise UserError(
                f"{len(self._unanswered)} requests stayed without an answer after {self.api.attempts} attempts each "
                f"(the first is of query {query}: {last}); {kept}: run it again to go on, they are not asked for again"
            )

    async def _worker(self, queue: deque[Request]) -> None:
        while queue and not self.client.stopped:
            request = queue.popleft()
            claim = self.ledger.claim(request.key)
            self._taken_in_a_row = self._taken_in_a_row + 1 if claim is Claim.TAKEN else 0
            match claim:
                case Claim.ANSWERED:  # by another process since this one looked
                    self._progress(1)
                case Claim.TAKEN:
                    queue.append(request)
                    if self._taken_in_a_row > len(queue):  # nothing but those is left
                        await self.client.sleep(_POLL, quietly=True)
                case Claim.OURS:
                    try:
                        await self._until_useful(request)
                    except NoAnswer:
                        pass
                    except Exception as error:  # noqa: BLE001 - the others' answers are awaited before it is raised
                        self._error = self._error or error
                        self.client.halt("an answer could not be stored")
                    finally:
                        self.ledger.release(request.key)

    async def _until_useful(self, request: Request) -> None:
        """Ask until an answer passes the checks, `teacher.asks` times at most, and store it."""
        for _ in range(self.teacher.asks):
            if not self.budget.allows(request):
                self.client.halt(
                    f"teacher.max_cost {self.budget.limit:g} is reached ({self.budget.spent:.4f} spent); raise it"
                )
                raise NoAnswer
            try:
                answer, problem = await self._answer(request)
            finally:
                self.budget.settle(request)
            self.outcome.asked += 1
            self.budget.spend(answer.usage)
            if problem is None:
                self.ledger.store(request, answer)
                self.outcome.useless.pop(request.key, None)
                self._progress(1)
                return
            self.ledger.store_useless(request, problem, answer)
            self.outcome.useless[request.key] = problem
            self._useless += 1
            self._progress(0)
            if self.client.stopped:
                raise NoAnswer
        self._progress(1)

    async def _answer(self, request: Request) -> tuple[Answer, str | None]:
        """One answer and, where it is of no use, why."""

        async def send(client: "AsyncOpenAI") -> tuple[Answer, str | None]:
            start = time.perf_counter()
            reply = await client.chat.completions.with_raw_response.create(
                model=request.model,
                messages=request.messages,  # type: ignore[arg-type]
                extra_body=request.options,
            )
            # Read here: the client hands on whatever it cannot parse.
            return self._read(json.loads(reply.content), request, time.perf_counter() - start)

        try:
            answered = await self.client.call(send, _total(estimate(request)))
        except Refused as error:
            self.client.halt(str(error))
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
            (choice, *_) = body["choices"]
            message, reason = choice["message"], choice.get("finish_reason")
            content = _text(message.get("content"))
            used = body.get("usage") or {}
            details = used.get("prompt_tokens_details") or {}
            # Where the server does not count, its tokens are estimated.
            usage = Usage(
                int(used.get("prompt_tokens") or tokens_of(request.messages)),
                int(used.get("completion_tokens") or tokens_in(content)),
                # OpenAI's name for it, and DeepSeek's.
                int(details.get("cached_tokens") or used.get("prompt_cache_hit_tokens") or 0),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(words_of(body) or f"not a chat completion: {error!r}") from None
        ended = ending(reason)
        if ended == "broken":
            raise ValueError(f"the server broke the answer off: {reason}")
        text, cleaned, problem = examine(content, request.query, self.language, ended == "cut", self.teacher.max_words)
        if ended == "refusal" or (message.get("refusal") and not content):
            problem = "refusal"
        elif (
            not text and problem in ("empty", "cut") and (message.get("reasoning_content") or message.get("reasoning"))
        ):
            problem = "thinking"
        return Answer(text, cleaned, content, usage, seconds), problem

    def _lose(self, request: Request, last: str) -> None:
        """Go on without an answer, unless no request gets one any more."""
        self._unanswered[request.key] = request.query_id, last
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
    # Half a character, as byte-level models write at times, can be stored nowhere.
    return (content or "").encode("utf-8", "replace").decode()
