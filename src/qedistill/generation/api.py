"""A teacher behind any OpenAI-compatible chat endpoint: a vendor's API, vLLM, llama.cpp, `transformers serve`."""

import asyncio
import json
import math
import os
import random
import signal
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from qedistill.errors import UserError
from qedistill.generation.checks import examine
from qedistill.generation.ledger import Claim, Ledger
from qedistill.generation.request import Answer, Outcome, Request, Usage, tokens_in, tokens_of
from qedistill.params import Api, Prices, Teacher
from qedistill.progress import calls_bar

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from tenacity import RetryCallState

_RETRIED = {408, 409, 425, 429}  # and every 5xx; any other 4xx is given up at once
_LONGEST_WAIT = 60.0  # seconds between two attempts, unless the server asks for more
_PATIENCE = 600.0  # seconds a server may ask to wait; beyond, as for a day's quota, the run stops
_CONNECT = 10.0  # seconds to reach the server
_BROKEN_OFF = {"insufficient_system_resource", "error", "abort"}  # finish reasons of DeepSeek, OpenRouter, vLLM
_FIRST_ATTEMPTS = 3  # where no server has ever answered: a wrong address should not take minutes to be told
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
    known = ledger.answers(request.key for request in requests)
    # Two queries of the same text are one request.
    missing = list({request.key: request for request in requests if request.key not in known}.values())
    outcome = Outcome(known)
    if missing:
        budget = _Budget(ledger, [*requests, *others], teacher.api.prices, teacher.max_cost)
        budget.check()
        asyncio.run(_Asking(missing, teacher, _key(teacher.api), language, ledger, budget, outcome).run())
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


class _NoAnswer(Exception):
    """The request gets no answer in this run."""


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
        self, requests: Sequence[Request], teacher: Teacher, key: str, language: str, ledger: Ledger, budget: _Budget,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        from aiolimiter import AsyncLimiter

        api = teacher.api
        self.teacher, self.api, self.key, self.language, self.ledger = teacher, api, key, language, ledger
        self.budget, self.outcome, self.requests = budget, outcome, requests
        # Small buckets: a full one of a minute would let twice the limit through in the first.
        self._requests = AsyncLimiter(1, 60 / api.requests_per_minute) if api.requests_per_minute else None
        self._tokens: AsyncLimiter | None = None
        if limit := api.tokens_per_minute:
            bucket = max(limit / 10, *(_total(estimate(request)) for request in requests))
            self._tokens = AsyncLimiter(bucket, bucket * 60 / limit)
        self._stop = asyncio.Event()
        self._why: str | None = None
        self._answered = False  # by any server, were it with an error
        self._lost_in_a_row = 0
        self._taken_in_a_row = 0
        self._useless = 0  # answers
        self._unanswered: dict[str, tuple[str, str]] = {}  # key → query id, last error
        self._error: Exception | None = None

    async def run(self) -> None:
        from openai import AsyncOpenAI, Timeout

        queue = deque(self.requests)
        with self._ctrl_c(), calls_bar("Asking", len(queue)) as self._bar:
            # Retrying and timing are done here: the client's own retries would be neither counted nor limited.
            client = AsyncOpenAI(
                api_key=self.key, base_url=self.api.base_url, max_retries=0, timeout=Timeout(None, connect=_CONNECT)
            )
            client.organization = client.project = None  # of OpenAI, from the environment: no other vendor's business
            async with client:
                await asyncio.gather(*(self._worker(client, queue) for _ in range(self.api.concurrency)))
        if self._error:
            raise self._error
        self._report()

    def _report(self) -> None:
        """Raise a UserError where not every request was seen to."""
        stored = len(self.ledger.answers(request.key for request in self.requests))
        kept = f"{stored} of {len(self.requests)} answers came and are in the ledger ({self.ledger.path.name})"
        if self._why:
            raise UserError(f"{self._why}; {kept}: run it again to go on, they are not asked for again")
        if self._unanswered:
            query, last = next(iter(self._unanswered.values()))
            raise UserError(
                f"{len(self._unanswered)} requests stayed without an answer after {self.api.attempts} attempts each "
                f"(the first is of query {query}: {last}); {kept}: run it again to go on, they are not asked for again"
            )

    async def _worker(self, client: "AsyncOpenAI", queue: deque[Request]) -> None:
        while queue and not self._stop.is_set():
            request = queue.popleft()
            claim = self.ledger.claim(request.key)
            self._taken_in_a_row = self._taken_in_a_row + 1 if claim is Claim.TAKEN else 0
            match claim:
                case Claim.ANSWERED:  # by another process since this one looked
                    self._progress(1)
                case Claim.TAKEN:
                    queue.append(request)
                    if self._taken_in_a_row > len(queue):  # nothing but those is left
                        await self._sleep(_POLL, quietly=True)
                case Claim.OURS:
                    try:
                        await self._until_useful(client, request)
                    except _NoAnswer:
                        pass
                    except Exception as error:  # noqa: BLE001 - the others' answers are awaited before it is raised
                        self._error = self._error or error
                        self._stop.set()
                    finally:
                        self.ledger.release(request.key)

    async def _until_useful(self, client: "AsyncOpenAI", request: Request) -> None:
        """Ask until an answer passes the checks, `teacher.asks` times at most, and store it."""
        for _ in range(self.teacher.asks):
            if not self.budget.allows(request):
                self._halt(
                    f"teacher.max_cost {self.budget.limit:g} is reached ({self.budget.spent:.4f} spent); raise it"
                )
                raise _NoAnswer
            try:
                answer, problem = await self._attempts(client, request)
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
            if self._stop.is_set():
                raise _NoAnswer
        self._progress(1)

    async def _attempts(self, client: "AsyncOpenAI", request: Request) -> tuple[Answer, str | None]:
        """One answer, tried for until the server gives one."""
        from openai import APIError
        from tenacity import AsyncRetrying, RetryError, retry_if_exception

        try:
            async for attempt in AsyncRetrying(
                sleep=self._sleep,
                wait=_wait,
                stop=self._gives_up,
                retry=retry_if_exception(_passes),
            ):
                with attempt:
                    answered = await self._call(client, request)
        except RetryError as error:
            last = error.last_attempt.exception()
            self._lose(request, self._said(last))
            raise _NoAnswer from None
        except APIError as error:
            self._halt(self._refused(error))
            raise _NoAnswer from None
        self._answered, self._lost_in_a_row = True, 0
        return answered

    async def _call(self, client: "AsyncOpenAI", request: Request) -> tuple[Answer, str | None]:
        if self._requests:
            await self._unless_stopped(self._requests.acquire())
        if self._tokens:
            await self._unless_stopped(self._tokens.acquire(_total(estimate(request))))
        start = time.perf_counter()
        # The whole answer within the time, not only each of its bytes.
        async with asyncio.timeout(self.api.timeout):
            reply = await client.chat.completions.with_raw_response.create(
                model=request.model,
                messages=request.messages,  # type: ignore[arg-type]
                extra_body=request.options,
            )
        # Read here: the client hands on whatever it cannot parse.
        return self._read(json.loads(reply.content), request, time.perf_counter() - start)

    def _read(self, body: Any, request: Request, seconds: float) -> tuple[Answer, str | None]:
        """The answer in a chat completion and, where it is of no use, why.

        Raises:
            ValueError: the body is no chat completion, or one that the server broke off.
        """
        try:
            (choice, *_) = body["choices"]
            message, ended = choice["message"], choice.get("finish_reason")
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
            raise ValueError(_words_of(body) or f"not a chat completion: {error!r}") from None
        if ended in _BROKEN_OFF:
            raise ValueError(f"the server broke the answer off: {ended}")
        text, cleaned, problem = examine(
            content, request.query, self.language, ended == "length", self.teacher.max_words
        )
        if ended == "content_filter" or (message.get("refusal") and not content):
            problem = "refusal"
        elif problem == "empty" and (message.get("reasoning_content") or message.get("reasoning")):
            problem = "thinking"
        return Answer(text, cleaned, content, usage, seconds), problem

    def _gives_up(self, state: "RetryCallState") -> bool:
        """Whether an attempt was the last one; early, where there seems to be no server at all."""
        from openai import APIConnectionError

        error = state.outcome.exception() if state.outcome else None
        self._answered = self._answered or not isinstance(error, APIConnectionError | TimeoutError)
        if (asked := _asked_to_wait(error)) and asked > _PATIENCE:
            self._halt(f"{self.api.base_url} asks to wait {asked / 60:.0f} minutes: {self._said(error)}")
            return True
        attempts = self.api.attempts if self._answered else min(self.api.attempts, _FIRST_ATTEMPTS)
        return state.attempt_number >= attempts

    def _lose(self, request: Request, last: str) -> None:
        """Go on without an answer, unless no request gets one any more."""
        self._unanswered[request.key] = request.query_id, last
        self._lost_in_a_row += 1
        if not self._answered:
            self._halt(f"teacher.api.base_url {self.api.base_url}: no server answers there: {last}")
        elif self._lost_in_a_row >= max(self.api.concurrency, _LOST):
            self._halt(f"{self.api.base_url} has stopped answering: {last}")

    def _halt(self, why: str) -> None:
        self._why = self._why or why
        self._stop.set()

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Await something, unless everything stops before."""
        tasks = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if self._stop.is_set():
            raise _NoAnswer

    async def _sleep(self, seconds: float, quietly: bool = False) -> None:
        """Sleep, unless everything stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        if not quietly:
            raise _NoAnswer

    def _progress(self, done: int) -> None:
        tokens = self.budget.used.prompt_tokens + self.budget.used.completion_tokens
        self._bar(done, tokens, self.budget.spent if self.budget.prices else None, self._useless)

    def _refused(self, error: Any) -> str:
        status, said = getattr(error, "status_code", None), self._said(error)
        if status in (401, 403):
            where = self.api.key_variable or "teacher.api.key_variable (null: no key was sent)"
            return f"{where}: {self.api.base_url} does not accept the key ({status}): {said}"
        return f"{self.api.base_url} refused a request ({status}): {said}"

    def _said(self, error: BaseException | None) -> str:
        """An error in one line, in the server's words where it has any, without the key."""
        if isinstance(error, TimeoutError):
            return f"no whole answer within teacher.api.timeout, {self.api.timeout:g} s"
        response = getattr(error, "response", None)
        said = _words_of(getattr(error, "body", None)) or (_words_of(response.text) if response is not None else "")
        if not said:
            said = " ".join(str(error).split()) or type(error).__name__
            if cause := getattr(error, "__cause__", None):
                said += f" ({' '.join(str(cause).split())})"
        return (said.replace(self.key, "…") if self.api.key_variable else said)[:300]

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """On the first Ctrl-C, ask nothing new and await what is under way; the second ends at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._halt("interrupted")
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


def _key(api: Api) -> str:
    """The key from the environment; a placeholder where the server wants none.

    Raises:
        UserError: the variable is not set.
    """
    if api.key_variable is None:
        return "none"
    key = os.environ.get(api.key_variable, "").strip()
    if not key:
        raise UserError(
            f"{api.key_variable} is not set: put the key for {api.base_url} into that environment variable, or name "
            "another in teacher.api.key_variable (null: the server wants none)"
        )
    if not (
        key.isascii() and key.isprintable() and " " not in key
    ):  # it would break the header, and be quoted in an error
        raise UserError(f"{api.key_variable} holds no key: white space, line ends or quotation marks stand in it")
    return key


def _passes(error: BaseException) -> bool:
    """Whether an error may pass: it is worth trying again."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        # The money is used up, which time does not mend.
        used_up = getattr(error, "code", None) == "insufficient_quota"
        return (error.status_code in _RETRIED or error.status_code >= 500) and not used_up
    # ValueError: an answer that is no JSON, or not of the shape of an answer.
    return isinstance(error, APIConnectionError | TimeoutError | ValueError)


def _wait(state: "RetryCallState") -> float:
    """Seconds until the next attempt: what the server asks for, and an exponentially growing random time."""
    error = state.outcome.exception() if state.outcome else None
    return (_asked_to_wait(error) or 0.0) + random.uniform(0, min(_LONGEST_WAIT, 2.0 ** (state.attempt_number - 1)))


def _asked_to_wait(error: BaseException | None) -> float | None:
    """Seconds that the server which gave an error asks to wait."""
    response = getattr(error, "response", None)
    return None if response is None else _retry_after(response.headers)


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


def _words_of(body: Any) -> str:
    """What a server says in the body of an error, in the shapes that are in use; nothing where it says nothing."""
    for key in ("error", "message", "detail"):
        while isinstance(body, dict) and body.get(key):
            body = body[key]
    return " ".join(body.split()) if isinstance(body, str) else ""


def _retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3), or of retry-after-ms."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
            return max(0.0, seconds) if math.isfinite(seconds) else None
        except ValueError:
            pass
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            continue
    return None
