"""Calls of an OpenAI-compatible server, tried again while what hinders them may pass; for teacher and student."""

import asyncio
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from qedistill.errors import UserError
from qedistill.generation.replies import WebPage, complaint, is_web_page, read_body, status_in, words_of
from qedistill.params import Api
from qedistill.words import one_line

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

_RETRIED = {408, 409, 425, 429}  # and every 5xx; any other 4xx is given up at once
_OF_ALL = {401, 402, 403, 404, 405}  # what the next request would be told as well
_LONGEST_WAIT = 60.0  # seconds between two attempts, unless the server asks for more
_PATIENCE = 600.0  # seconds a server may ask to wait; beyond, as for a day's quota, the run stops
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
    """The server wants no call at all, now or later."""


class Rejected(NoAnswer):
    """The server does not want this one call; says why.

    Attributes:
        kind: `blocked` for what it says, `too_long`, or `rejected` for some other reason.
    """

    def __init__(self, said: str, kind: str) -> None:
        super().__init__(said)
        self.kind = kind


class _Failure(Exception):
    """An error that the server told."""

    def __init__(self, status: int | None, headers: Any, body: Any) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.about = complaint(body, status)

    @property
    def passes(self) -> bool:
        """Whether it is worth trying again."""
        return self.about is None and (self.status is None or self.status in _RETRIED or self.status >= 500)


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
        self._understood = False  # any call
        self.why: str | None = None  # all calls were stopped

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        from qedistill.generation.connection import Connection

        self._connection = Connection(self.api, self.names.base_url, self._key)
        try:
            yield
        finally:
            await self._connection.close()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def halt(self, why: str) -> None:
        """Start no new call; the first reason stands."""
        self.why = self.why or why
        self._stop.set()

    async def call(
        self,
        method: str,
        path: str,
        read: Callable[[Any, float], T],
        body: object = None,
        tokens: int = 0,
        attempts: int | None = None,
    ) -> T:
        """What `read` makes of the server's answer, tried for until there is one.

        Args:
            path: behind `base_url`.
            read: gets the answer's JSON value, in which the key has been made unreadable, and the seconds it took;
                raises ValueError where it is not of the shape it should be.
            tokens: of the call, for the limit.
            attempts: at most; else `api.attempts`.

        Raises:
            NoAnswer: no attempt was answered.
            Rejected: the server does not want this call.
            Refused: the server wants none.
        """
        from tenacity import AsyncRetrying, RetryError, retry_if_exception

        def gives_up(state: "RetryCallState") -> bool:
            return self._gives_up(state, attempts or self.api.attempts)

        try:
            async for attempt in AsyncRetrying(
                sleep=self.sleep, wait=_wait, stop=gives_up, retry=retry_if_exception(_passes)
            ):
                with attempt:
                    answer = await self._once(method, path, read, body, tokens)
        except RetryError as error:
            raise NoAnswer(self.said(error.last_attempt.exception())) from None
        except _Failure as error:
            self.answered = True
            raise self._verdict(error) from None
        self.answered = self._understood = True
        return answer

    async def _once(self, method: str, path: str, read: Callable[[Any, float], T], body: object, tokens: int) -> T:
        from qedistill.generation.connection import Elsewhere

        if self._requests:
            await self._unless_stopped(self._requests.acquire())
        if self._tokens:
            await self._unless_stopped(self._tokens.acquire(tokens))
        start = time.perf_counter()
        try:
            # The whole answer within the time, not only each of its bytes.
            async with asyncio.timeout(self.api.timeout):
                response = await self._connection.send(method, path, body)
        except Elsewhere as error:
            raise Refused(
                f"{self.api.base_url} redirects requests to {error}, and none is sent there: put the address that is "
                f"meant into {self.names.base_url}"
            ) from None
        except Exception as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Refused(
                    f"{self.api.base_url} shows a certificate that is not trusted ({self.said(error)}): name the file "
                    "of its authority in the environment variable SSL_CERT_FILE"
                ) from None
            raise
        seconds = time.perf_counter() - start
        kind = response.headers.get("content-type", "").lower()
        if not response.is_success:
            raise self._failure(response.status_code, response.headers, response.text, kind)
        try:
            told = self._redacted(read_body(response.text, kind))
        except WebPage as error:
            if self._understood:  # maintenance, a proxy's page: it may pass
                raise
            raise Refused(
                f"{self.api.base_url} answers with {self._redacted(str(error))}, not an API: {self._path()}"
            ) from None
        if isinstance(told, dict) and told.get("error") and not told.get("choices"):
            raise _Failure(status_in(told), response.headers, told)
        return read(told, seconds)

    def _failure(self, status: int, headers: Any, text: str, kind: str) -> _Failure:
        try:
            body = read_body(text, kind)
        except ValueError:
            body = text
        return _Failure(status, headers, self._redacted(body))

    def _gives_up(self, state: "RetryCallState", attempts: int) -> bool:
        """Whether an attempt was the last one; early, where there seems to be no server at all."""
        import httpx2

        error = state.outcome.exception() if state.outcome else None
        self.answered = self.answered or not isinstance(error, httpx2.TransportError | TimeoutError)
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

    def _verdict(self, error: _Failure) -> NoAnswer:
        """What an error that does not pass says: of this call alone, or of all."""
        status, said = error.status, self.said(error)
        of_one = error.about in ("blocked", "too_long") and status not in (401, 404)
        if of_one or (error.about != "money" and status not in _OF_ALL and (status is None or status >= 400)):
            return Rejected(said, error.about or "rejected")
        if status in (401, 403) and error.about != "money":
            where = self.api.key_variable or f"{self.names.key_variable} (null: no key was sent)"
            return Refused(f"{where}: {self.api.base_url} does not accept the key ({status}): {said}")
        if status in (404, 405) and "model" not in said.lower() and not self._understood:
            said += f"{', not an API' * is_web_page(str(error.body))}: {self._path()}"
        return Refused(f"{self.api.base_url} refused a request ({status}): {said}")

    def _path(self) -> str:
        """The question that a reply which is no API's leads to."""
        name = self.names.base_url
        return (
            f"is the path in {name} right?" if re.search(r"/v\d", self.api.base_url) else f"is /v1 missing in {name}?"
        )

    def said(self, error: BaseException | None) -> str:
        """An error in one line, in the server's words where it has any, without the key."""
        if isinstance(error, TimeoutError):
            return f"no whole answer within {self.names.timeout}, {self.api.timeout:g} s"
        if isinstance(error, _Failure):
            said = words_of(error.body) or one_line(error.body or "")[:200] or f"nothing (status {error.status})"
        else:
            said = one_line(error) or type(error).__name__
            if error.__class__.__module__.startswith("httpx2") and self._connection.proxy:
                said += f", through the proxy that {self._connection.proxy} names"
        return str(self._redacted(said))[:300]

    def _redacted(self, value: Any) -> Any:
        """A JSON value in which the key, where a server repeats it, cannot be read: the one door of all it says."""
        if isinstance(value, dict):
            return {self._redacted(key): self._redacted(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._redacted(item) for item in value]
        return redact(value, self._key) if isinstance(value, str) else value


def redact(text: str, key: str) -> str:
    """A text without a key; a word such as EMPTY, as servers that want no key are given, is none."""
    is_word = len(key) < 8 or (key.isalpha() and len(key) < 16)
    return text if is_word else text.replace(key, "…")


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
    import httpx2

    if isinstance(error, _Failure):
        return error.passes
    # ValueError: an answer that is no JSON, or not of the shape of an answer.
    return isinstance(error, httpx2.RequestError | TimeoutError | ValueError)


def _wait(state: "RetryCallState") -> float:
    """Seconds until the next attempt: what the server asks for, and an exponentially growing random time."""
    error = state.outcome.exception() if state.outcome else None
    return (_asked_to_wait(error) or 0.0) + random.uniform(0, min(_LONGEST_WAIT, 2.0 ** (state.attempt_number - 1)))


def _asked_to_wait(error: BaseException | None) -> float | None:
    """Seconds that the server which gave an error asks to wait."""
    return _retry_after(error.headers) if isinstance(error, _Failure) else None


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
