"""A server that answers as vLLM does, by transformers and PEFT: its requests, answers, errors, defaults and seeds.

Run as a script on the folder of a base, it prints its port. Under each of `VARIANTS` stands a server of its own. As in vLLM
with `--max-cpu-loras 1`, one adapter at most is in memory; another one that is asked for is read from its folder.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from peft import PeftConfig, PeftModel
from pydantic import BaseModel, ConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

KEY = "vllm-secret-key"
VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "relative": {"root": "models/base"},
    "elsewhere": {"root": "elsewhere/base"},
    "fixed": {"loads": False},
    "narrow": {"max_rank": 2},
    "locked": {"key": KEY},
    "old": {"tells_tokens": False},
    "broken": {"fails": True},
}


class Completion(BaseModel):
    """The fields of vLLM's CompletionRequest that are in use here; vLLM passes over unknown ones, this does not."""

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: list[int]
    max_tokens: int = 16
    n: int = 1
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] = []
    return_token_ids: bool | None = None


class Adapter(BaseModel):
    lora_name: str
    lora_path: str


def error(message: str, kind: str, status: int) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


class Engine:
    """The base in float32, and one adapter beside it."""

    def __init__(self, base: Path) -> None:
        self.base, self.lock = base, threading.Lock()
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self.defaults = json.loads((base / "generation_config.json").read_text())
        self.plain.generation_config = GenerationConfig()
        self.adapted: PeftModel | None = None
        self.name: str | None = None

    def take(self, name: str | None, path: str) -> Any:
        if name != self.name and self.adapted is not None:
            self.plain, self.adapted = self.adapted.unload(), None
        if name is not None and self.adapted is None:
            self.adapted = PeftModel.from_pretrained(self.plain, path).eval()
        self.name = name
        return self.adapted or self.plain

    def complete(self, request: Completion, name: str | None, path: str) -> list[list[int]]:
        def wanted(field: str, other: float) -> Any:
            value = getattr(request, field)
            return self.defaults.get(field, other) if value is None else value

        temperature = wanted("temperature", 1.0)
        sampling = {name: wanted(name, 0) for name in ("top_k", "min_p")} | {"top_p": wanted("top_p", 1.0)}
        ends = sorted({self.tokenizer.eos_token_id, *request.stop_token_ids})
        config = GenerationConfig(
            max_new_tokens=request.max_tokens, repetition_penalty=wanted("repetition_penalty", 1.0), eos_token_id=ends,
            pad_token_id=self.tokenizer.pad_token_id, do_sample=temperature > 0,
            **({"temperature": temperature, **sampling} if temperature > 0 else {}),
        )  # fmt: skip
        ids = torch.tensor([request.prompt])
        answers = []
        with self.lock, torch.inference_mode():
            model = self.take(name, path)
            for index in range(request.n):
                if request.seed is not None:
                    torch.manual_seed(request.seed + index)
                output = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
                )  # fmt: skip
                answers.append(output[0, ids.shape[1] :].tolist())
        return answers


def make_app(
    engine: Engine, root: str | None = None, loads: bool = True, max_rank: int = 64, key: str | None = None,
    tells_tokens: bool = True, fails: bool = False,
) -> FastAPI:  # fmt: skip
    app = FastAPI()
    adapters: dict[str, str] = {}

    @app.middleware("http")
    async def authenticate(request: Request, go_on: Any) -> Response:
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return await go_on(request)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        cards = [{"id": "base", "object": "model", "root": root or str(engine.base), "parent": None}]
        cards += [{"id": i, "object": "model", "root": path, "parent": "base"} for i, path in adapters.items()]
        return {"object": "list", "data": cards}

    def load(wanted: Adapter) -> Response:
        time.sleep(0.2)
        name, path = wanted.lora_name, wanted.lora_path
        if name in adapters:
            return error(f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput", 400)
        if not Path(path, "adapter_config.json").exists():
            return error(f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError", 404)
        if (rank := PeftConfig.from_pretrained(path).r) > max_rank:
            said = f"Call to add_lora method failed: LoRA rank {rank} is greater than max_lora_rank {max_rank}."
            return error(said, "InternalServerError", 500)
        with engine.lock:
            engine.take(name, path)
        adapters[name] = path
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    if loads:
        app.post("/v1/load_lora_adapter")(load)

    @app.post("/v1/completions")
    def completions(request: Completion) -> Any:
        if request.model not in ("base", *adapters):
            return error(f"The model `{request.model}` does not exist.", "NotFoundError", 404)
        if request.temperature == 0 and request.n > 1:
            return error(f"n must be 1 when using greedy sampling, got {request.n}.", "BadRequestError", 400)
        if fails:
            return error("This model's maximum context length is 8 tokens.", "BadRequestError", 400)
        name = request.model if request.model in adapters else None
        answers = engine.complete(request, name, adapters.get(request.model, ""))
        told = bool(request.return_token_ids and tells_tokens)
        choices = [
            {
                "index": index,
                "text": engine.tokenizer.decode(tokens, skip_special_tokens=True),
                "finish_reason": "length" if len(tokens) == request.max_tokens else "stop",
                "token_ids": tokens if told else None,
                "prompt_token_ids": request.prompt if told else None,
            }
            for index, tokens in enumerate(answers)
        ]
        written = sum(map(len, answers))
        usage = {"prompt_tokens": len(request.prompt), "completion_tokens": written}
        return {"id": "cmpl-1", "object": "text_completion", "model": request.model, "choices": choices, "usage": usage}

    return app


async def serve(app: FastAPI) -> None:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the test closes the pipe
    server.should_exit = True
    await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    engine = Engine(parser.parse_args().base)
    whole = FastAPI()
    for variant, options in VARIANTS.items():
        whole.mount(f"/{variant}", make_app(engine, **options))
    asyncio.run(serve(whole))
