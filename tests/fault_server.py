"""An OpenAI-compatible server that fails, as those of vendors do; run as a script, it prints its port.

Each chat request is a line of the log: {"at": seconds since the epoch, "content": the user's message, "fault"}; `fault` is
null where an answer was sent. A fault named in --replies is that reply: {"status", "headers", "body"} (JSON or a text), or
the usual answer with other {"usage"}, {"message"} or {"finish_reason"}; --on names the fault of a message, always.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

KEY = "secret-key-1234567890"
ENDS = {"filter": "content_filter", "broken": "insufficient_system_resource"}
FAULTS = {"429": 0.10, "500": 0.05, "hang": 0.02, "json": 0.01, "empty": 0.01}


def answer(content: str) -> str:
    return f"the passage about {content.split()[-1]}"


def start(log: Path, **options: Any) -> tuple["subprocess.Popen[str]", int]:
    """A server's process, which ends with its standard input, and its port."""
    log.touch()
    flags = [f"--{name}={json.dumps(value)}" for name, value in options.items()]
    command = [sys.executable, __file__, log, *flags]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def make_app(
    log: Path, faults: dict[str, float], seed: int, latency: float, answers: dict[str, list[str]],
    replies: dict[str, dict[str, Any]], on: dict[str, str],
) -> web.Application:  # fmt: skip
    drawn = random.Random(seed)
    asked: Counter[str] = Counter()

    def say(content: str) -> str:
        """To a query of `answers` what stands there, in turn where it is asked several times."""
        query = re.split("Query: |查询：", content)[-1].rpartition("\n")[0]  # the line of the passage is still empty
        if query not in answers:
            return answer(content)
        asked[content] += 1
        return answers[query][(asked[content] - 1) % len(answers[query])]

    async def chat(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            said = f"Incorrect API key provided: {request.headers.get('Authorization', '')[7:]}."
            return web.json_response({"error": {"message": said, "code": "invalid_api_key"}}, status=401)
        body = await request.json()
        content = body["messages"][-1]["content"]
        point, fault = drawn.random(), None
        for name, share in faults.items():
            if point < share:
                fault = name
                break
            point -= share
        fault = on.get(content, fault)
        reply = replies.get(fault or "", {})
        with log.open("a") as file:
            line = {"at": time.time(), "content": content, "fault": fault}
            vendors = [name for name in request.headers if name.lower().startswith("openai-")]
            file.write(json.dumps(line | ({"headers": vendors} if vendors else {})) + "\n")
        await asyncio.sleep(drawn.uniform(0.5, 1.5) * latency)
        if "body" in reply:
            body = reply["body"]
            headers = {"Content-Type": "application/json"} | reply.get("headers", {})
            text = body if isinstance(body, str) else json.dumps(body)
            return web.Response(body=text.encode(), status=reply.get("status", 200), headers=headers)
        match fault:
            case "429":
                error = {"error": {"message": "too many requests"}}
                return web.json_response(error, status=429, headers={"Retry-After": "1"})
            case "500":
                return web.Response(status=500, text="<html>Internal Server Error</html>")
            case "hang":
                await asyncio.sleep(3600)
            case "json":
                return web.Response(text='{"choices": [{"mess', content_type="application/json")
            case "daily":
                return web.json_response({"error": "quota"}, status=429, headers={"Retry-After": "86400"})
            case "404":
                return web.json_response({"detail": "model not found: m"}, status=404)
            case "overloaded":
                return web.json_response({"error": {"message": "overloaded", "code": 502}})
        text = say(content)
        odd = {"empty": "", "parts": [{"type": "thinking"}, {"type": "text", "text": text}], "half": f"{text}\ud83d"}
        message = {"role": "assistant", "content": odd.get(fault or "", text)}
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 40},
        }
        choice = {"index": 0, "message": message, "finish_reason": ENDS.get(fault or "", "stop")}
        choice |= {key: value for key, value in reply.items() if key in choice}
        usage = reply.get("usage", usage)
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def serve(app: web.Application) -> None:
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the test closes the pipe


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--faults", type=json.loads, default=FAULTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--answers", type=json.loads, default={}, help="query: what is said to it, the first time, ...")
    parser.add_argument("--replies", type=json.loads, default={}, help="fault: what is replied")
    parser.add_argument("--on", type=json.loads, default={}, help="message: its fault")
    given = vars(parser.parse_args())
    asyncio.run(serve(make_app(**given)))
