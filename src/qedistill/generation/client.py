"""Calls of an OpenAI-compatible server, tried again while what hinders them may pass; for teacher and student."""

import asyncio
import math
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from qedistill.errors import UserError
from qedistill.params import Api

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from tenacity import RetryCallState

T = TypeVar("T")

_RETRIED = {408, 409, 425, 429}  # and every 5xx; any other 4xx is given up at once
_LONGEST_WAIT = 60.0  # seconds between two attempts, unless the server asks for more
_PATIENCE = 600.0  # seconds a server may ask to wait; beyond, as for a day's quota, the run stops
_CONNECT = 10.0  # seconds to reach the server
_FIRST_ATTEMPTS = 3  # where no server has ever answered: a wrong address should not take minutes to be told


@dataclass(frozen=True)
class Names:
    """What errors call the settings of a server."""

    base_url: str
    key_variable: str
    timeout: str


TEACHER = Names("teacher.api.base_url", "teacher.api.key_variable", "teacher.api.timeout")


class NoAnswer(Exception):
    """The call gets no answer in this run; says why, or nothing where all calls were stopped."""


class Refused(NoAnswer):
    """The server does not want the call, now or later."""


class Client:
    """One run's calls of a server.

    Args:
        api: limits, patience and key.
        names: of its settings, in errors.
        largest: tokens of the largest call, for the limit of tokens.

    Raises:
        UserError: the key is missing.
    """

    def __init__(self, api: Api, names: Names, largest: int = 0) -> None:
        from aiolimiter import AsyncLimiter

        self.api, self.names, self._key = api, names, read_key(api, names)
        # Small buckets: a full one of a minute would let twice the limit through in the first.
        self._requests = AsyncLimiter(1, 60 / api.requests_per_minute) if api.requests_per_minute else None
        self._tokens: AsyncLimiter | None = None
        if limit := api.tokens_per_minute:
            bucket = max(limit / 10, largest)
            self._tokens = AsyncLimiter(bucket, bucket * 60 / limit)
        self._stop = asyncio.Event()
        self.answered = False  # any call, were it with an error
        self.why: str | None = None  # all calls were stopped

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        from openai import AsyncOpenAI, Timeout

        # Retrying and timing are done here: the client's own retries would be neither counted nor limited.
        openai = AsyncOpenAI(
            api_key=self._key, base_url=self.api.base_url, max_retries=0, timeout=Timeout(None, connect=_CONNECT)
        )
        openai.organization = openai.project = None  # of OpenAI, from the environment: no other vendor's business
        async with openai as self._openai:
            yield

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def halt(self, why: str) -> None:
        """Start no new call; the first reason stands."""
        self.why = self.why or why
        self._stop.set()

    async def call(
        self, send: Callable[["AsyncOpenAI"], Awaitable[T]], tokens: int = 0, attempts: int | None = None
    ) -> T:
        """What `send` makes of the server's answer, tried for until there is one.

        Args:
            send: raises ValueError where the answer is not of its shape.
            tokens: of the call, for the limit.
            attempts: at most; else `api.attempts`.

        Raises:
            NoAnswer: no attempt was answered.
            Refused: the server refuses the call.
        """
        from openai import APIError
        from tenacity import AsyncRetrying, RetryError, retry_if_exception

        def gives_up(state: "RetryCallState") -> bool:
            return self._gives_up(state, attempts or self.api.attempts)

        try:
            async for attempt in AsyncRetrying(
                sleep=self.sleep, wait=_wait, stop=gives_up, retry=retry_if_exception(_passes)
            ):
                with attempt:
                    answer = await self._once(send, tokens)
        except RetryError as error:
            raise NoAnswer(self.said(error.last_attempt.exception())) from None
        except APIError as error:
            raise Refused(self._refused(error)) from None
        self.answered = True
        return answer

    async def _once(self, send: Callable[["AsyncOpenAI"], Awaitable[T]], tokens: int) -> T:
        if self._requests:
            await self._unless_stopped(self._requests.acquire())
        if self._tokens:
            await self._unless_stopped(self._tokens.acquire(tokens))
        # The whole answer within the time, not only each of its bytes.
        async with asyncio.timeout(self.api.timeout):
            return await send(self._openai)

    def _gives_up(self, state: "RetryCallState", attempts: int) -> bool:
        """Whether an attempt was the last one; early, where there seems to be no server at all."""
        from openai import APIConnectionError

        error = state.outcome.exception() if state.outcome else None
        self.answered = self.answered or not isinstance(error, APIConnectionError | TimeoutError)
        if (asked := _asked_to_wait(error)) and asked > _PATIENCE:
            self.halt(f"{self.api.base_url} asks to wait {asked / 60:.0f} minutes: {self.said(error)}")
            return True
        return state.attempt_number >= (attempts if self.answered else min(attempts, _FIRST_ATTEMPTS))

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Await something, unless everything stops before."""
        tasks = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if self.stopped:
            raise NoAnswer

    async def sleep(self, seconds: float, quietly: bool = False) -> None:
        """Sleep, unless everything stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        if not quietly:
            raise NoAnswer

    def _refused(self, error: Any) -> str:
        status, said = getattr(error, "status_code", None), self.said(error)
        if status in (401, 403):
            where = self.api.key_variable or f"{self.names.key_variable} (null: no key was sent)"
            return f"{where}: {self.api.base_url} does not accept the key ({status}): {said}"
        return f"{self.api.base_url} refused a request ({status}): {said}"

    def said(self, error: BaseException | None) -> str:
        """An error in one line, in the server's words where it has any, without the key."""
        if isinstance(error, TimeoutError):
            return f"no whole answer within {self.names.timeout}, {self.api.timeout:g} s"
        response = getattr(error, "response", None)
        said = words_of(getattr(error, "body", None)) or (words_of(response.text) if response is not None else "")
        if not said:
            said = " ".join(str(error).split()) or type(error).__name__
            if cause := getattr(error, "__cause__", None):
                said += f" ({' '.join(str(cause).split())})"
        return (said.replace(self._key, "…") if self.api.key_variable else said)[:300]


def read_key(api: Api, names: Names) -> str:
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
            f"another in {names.key_variable} (null: the server wants none)"
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


def words_of(body: Any) -> str:
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
