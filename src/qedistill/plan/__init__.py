"""What a run would download, ask, search and train, and what this machine lacks for it; nothing is spent.

    plan = make_plan(load_params(), raw, Path(), ledger(), find_device())
    print(plan.missing)

All that is counted comes from params, from the registries that ship with ir_datasets and pyserini, and from what is on the
machine. Hours are rough: their rates are assumptions, which `Plan.assumptions` states.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from qedistill.errors import UserError
from qedistill.layout import METRICS, MODELS
from qedistill.params import Params
from qedistill.plan import here, model, work
from qedistill.prompts import STYLES, load_templates
from qedistill.text import read_json

TRAINED_SHARE, GENERATED_SHARE = 0.3, 0.05  # of a GPU's arithmetic that training and generation reach
# Dense bfloat16 operations a second and bytes of memory, from the vendor's data sheets.
GPUS = {
    "H200": (989e12, 141e9), "H100": (989e12, 80e9), "A100": (312e12, 80e9), "L40S": (362e12, 48e9),
    "L4": (121e12, 24e9), "A10": (125e12, 24e9), "RTX 4090": (165e12, 24e9), "RTX 3090": (71e12, 24e9),
}  # fmt: skip
OTHER_GPU = 100e12
CORE = 100e9  # operations a second of a CPU core, in training and batched generation alike
NETWORK = 12.5e6  # bytes a second: 100 Mbit/s
ANSWER = 8.0  # seconds that an API takes
SEARCHES = {True: 15.0, False: 300.0}  # a second, in a prebuilt index, of millions of documents, or in one of our own
DOCUMENT = 128  # tokens that a dense encoder reads of a document
BIG_CPU_MODEL = 1e9  # parameters, beyond which a CPU is no choice


@dataclass(frozen=True)
class Device:
    """Where training would run.

    Attributes:
        memory: in bytes, the GPU's or else the machine's.
        operations: a second.
        count: GPUs of this kind; None: not known.
    """

    name: str
    gpu: bool
    memory: float
    operations: float
    width: int = 2  # bytes a number
    measured: bool = False  # the operations, in training
    count: int | None = None

    @property
    def shares(self) -> tuple[float, float]:
        """Of the operations that training and generation reach."""
        return (TRAINED_SHARE, GENERATED_SHARE) if self.gpu else (1.0, 1.0)


def find_device(gpu: str | None = None) -> Device:
    """The GPU named, one of GPUS; None: the one that PyTorch sees, else the CPU.

    Raises:
        UserError: no figures of this GPU are known.
    """
    if gpu is not None:
        if gpu not in GPUS:
            raise UserError(f"--gpu: no figures of {gpu!r} are known; there are: {', '.join(GPUS)}")
        operations, memory = GPUS[gpu]
        return Device(gpu, True, memory, operations)
    import torch

    from qedistill.training.model import pick_dtype

    width = pick_dtype().itemsize
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        peak = next((speed for name, (speed, _) in GPUS.items() if name in found.name), OTHER_GPU)
        return Device(found.name, True, found.total_memory, peak, width, count=torch.cuda.device_count())
    cores = len(os.sched_getaffinity(0))
    return Device(
        f"the CPU ({cores} core{'s' if cores > 1 else ''})", False, psutil.virtual_memory().total, cores * CORE, width
    )


@dataclass
class Plan:
    """A plan as its tables show it.

    Attributes:
        queries: split → queries; `exact` tells whether they are counted or at the most.
        memory: what → its terms in bytes.
        hours: stage → hours; a stage that is made already has 0.
        missing: sentences, each naming what the run would stop for.
        notes: what is not known.
    """

    made: dict[str, bool]
    device: Device
    queries: dict[str, int] = field(default_factory=dict)
    exact: bool = True
    loads: list[here.Load] = field(default_factory=list)
    calls: dict[str, work.Calls] = field(default_factory=dict)
    processes: int = 1  # that train
    todo: work.Work | None = None
    encoding: float = 0  # operations, of the documents by the dense encoder, at the most
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def assumptions(self) -> str:
        """The rates behind the hours, in a sentence."""
        if self.device.gpu:
            train, generate = self.device.shares
            peak = f"{self.device.name} at {self.device.operations / 1e12:.0f} TFLOP/s"
            speed = f"{peak}, {train:.0%} of it reached in training, {generate:.0%} in generation"
        else:
            source = ", as measured in metrics/sft.json" if self.device.measured else " in all"
            speed = f"{self.device.name} at {self.device.operations / 1e9:.0f} GFLOP/s{source}"
        return (
            f"Rough, assumed: {NETWORK * 8 / 1e6:.0f} Mbit/s; {ANSWER:.0f} s an answer of an API; {SEARCHES[False]:.0f} "
            f"searches/s, {SEARCHES[True]:.0f} in a prebuilt index; {speed}; 6 operations a weight and "
            "token trained on a GPU, 4 on a CPU, 2 generated."
        )


def make_plan(params: Params, raw: Mapping[str, Any], root: Path, ledger: Path, device: Device) -> Plan:
    """The plan of params in a project; what cannot be known for an error in them stands in `missing`.

    Args:
        raw: params.yaml as read, to compare with what stages were run with.
        ledger: of an API teacher's answers; may not exist.
    """
    plan = Plan(here.made_stages(root, raw), device)
    plan.processes = 1 if params.training.launcher == "none" else params.training.processes
    plan.missing += here.lacking_packages() + here.lacking_extra(params) + here.lacking_files(params, plan.made)
    if device.count is not None and plan.processes > device.count:
        plan.missing.append(
            f"GPU: training.processes is {plan.processes}, of {device.name} there {_are(device.count)} here"
        )
    shape = model.find_shape(params.student.model)
    if plan.made.get("student"):
        shape = shape or model.find_shape(str(root / MODELS / "base"))
        plan.device = _measured(device, root / METRICS / "sft.json", shape)
    if shape is None:
        plan.notes.append(f"{params.student.model} is not on this machine: its size and memory are not known")

    def attempt(step: Callable[[], object]) -> None:
        try:
            step()
        except UserError as error:
            if not any(error.message in sentence for sentence in plan.missing):
                plan.missing.append(error.message)

    attempt(lambda: load_templates(params.collection.language))
    attempt(lambda: plan.loads.extend(here.collection_loads(params, plan.made)))
    attempt(lambda: plan.loads.extend(here.index_loads(params)))
    attempt(lambda: plan.loads.extend(here.model_loads(params, plan.made, shape)))
    attempt(lambda: _count_dense(plan, params))
    attempt(lambda: _count(plan, params, ledger, shape))
    if not plan.made.get("dpo"):
        attempt(lambda: _inspect_student(plan, params, root))
    plan.missing += here.lacking_disk(plan.loads)
    if unknown := [load.what for load in plan.loads if load.size is None and not load.there]:
        plan.notes.append(f"not known is the size of {', '.join(unknown)}")
    return plan


def _inspect_student(plan: Plan, params: Params, root: Path) -> None:
    """Whether the student can be asked, trained and stopped, and what SFT would lose, as far as it is here."""
    from qedistill.chat import read_template
    from qedistill.tally import Tally
    from qedistill.training.inspect import count_rows, inspect_student, template_path

    template = template_path(params)
    if (source := here.find_student(params, plan.made, root)) is None:
        if template:
            read_template(template)
        return
    tokenizer, notes = inspect_student(source, params, template, fetch=False)
    plan.notes += notes
    if params.collection.train is not None and not plan.made.get("sft"):
        tally = Tally()
        answered = all(plan.made.get(f"teach@{style}", False) for style in STYLES)
        count_rows(work.known_queries(params, plan.made.get("collection", False)), answered, tokenizer, params, tally)
        plan.notes += [f"sft: {line}" for line in tally.lines()]


def _measured(device: Device, metrics: Path, shape: model.Shape | None) -> Device:
    """A CPU with the speed at which it trained this student, where it did."""
    if device.gpu or shape is None or not metrics.exists():
        return device
    speed = read_json(metrics)["tokens_per_second"]
    return replace(device, operations=model.training_operations(shape, speed, device.gpu), measured=True)


def _are(count: int) -> str:
    return "is one" if count == 1 else f"are {count}"


def _count_dense(plan: Plan, params: Params) -> None:
    """Loads, memory and arithmetic of the dense retriever, where there is one."""
    if params.dense.encoder is None:
        return
    documents = work.count_documents(params, plan.made.get("collection", False))
    plan.loads += here.dense_loads(params, plan.made, documents)
    encoder = here.find_encoder(params.dense.encoder)
    if (size := here.vectors(params, documents, encoder)) is not None:
        plan.memory["retrieve"] = {"vectors": size}
        if size > (memory := psutil.virtual_memory().total):  # FAISS searches on the CPU, GPU or not
            plan.missing.append(
                f"memory: retrieve holds {size / 1e9:.1f} GB of vectors, this machine has {memory / 1e9:.1f} GB"
            )
    if not params.dense.builds:
        return
    if documents is None or encoder.parameters is None:
        plan.notes.append("how long dense.encoder takes to encode the documents is not known")
    else:
        plan.encoding = 2 * encoder.parameters * documents * DOCUMENT


def _count(plan: Plan, params: Params, ledger: Path, shape: model.Shape | None) -> None:
    plan.queries, plan.exact = work.split_queries(params, plan.made.get("collection", False))
    if params.collection.train is None:
        plan.notes.append("collection.train is null: nothing is taught or trained")
        return
    if params.teacher.generator != "recorded" and not _all_made(plan, "teach"):
        ready = plan.made.get("collection", False) and plan.made.get("exemplars", False)
        plan.calls = work.teacher_calls(params, plan.queries, ready, ledger)
        if params.teacher.generator == "local":
            _weigh_teacher(plan, params)
        elif params.teacher.api.prices is None:
            plan.notes.append("teacher.api.prices is null: the cost is not known")
    plan.todo = work.measure_work(params, plan.queries)
    if params.generation.server:
        plan.notes.append("generation.server writes the expansions: how long that takes is not known")
    if shape is not None:
        _weigh(plan, params, shape, plan.todo)
    _judge_memory(plan, shape)
    plan.hours = {
        stage: 0.0 if _all_made(plan, stage) else hours for stage, hours in estimate_hours(plan, params, shape).items()
    }


def _weigh(plan: Plan, params: Params, shape: model.Shape, todo: work.Work) -> None:
    device, wanted = plan.device, params.generation
    length = todo.prompt_tokens + wanted.max_new_tokens
    for stage, training, sequences in (("sft", params.sft, 1), ("dpo", params.dpo, 2)):
        together = here.find_processes(params.training, stage)
        plan.memory[stage] = model.training_memory(
            shape, params.sft.lora, training, sequences, device.gpu, device.width, together
        )
    if wanted.server is None:
        plan.memory["expand"] = model.generation_memory(shape, wanted.batch_size, length, device.gpu, device.width)


def _weigh_teacher(plan: Plan, params: Params) -> None:
    teacher, device = params.teacher, plan.device
    shape = model.find_shape(str(teacher.model))
    if shape is None:
        plan.notes.append(f"{teacher.model} is not on this machine: its size and memory are not known")
        return
    length = max(calls.longest for calls in plan.calls.values())
    plan.memory["teach"] = model.generation_memory(shape, teacher.batch_size, length, device.gpu, device.width)


def _judge_memory(plan: Plan, shape: model.Shape | None) -> None:
    """What of the memory there is not."""
    device = plan.device
    for stage, terms in plan.memory.items():
        if stage == "retrieve":  # not on the device
            continue
        # The processes of a CPU share the machine's memory; GPUs have one each.
        times = plan.processes if stage in ("sft", "dpo") and not device.gpu else 1
        if (needed := times * sum(terms.values())) > device.memory and not _all_made(plan, stage):
            most = max(terms, key=terms.__getitem__)
            plan.missing.append(
                f"memory: {stage} takes {needed / 1e9:.1f} GB at the most ({times * terms[most] / 1e9:.1f} GB of it {most}), "
                f"{device.name} has {device.memory / 1e9:.1f} GB"
            )
    if shape and not device.gpu and shape.parameters > BIG_CPU_MODEL and not _all_made(plan, "dpo"):
        plan.missing.append(f"GPU: {shape.parameters / 1e9:.1f} billion parameters are too many to train on a CPU")


def _all_made(plan: Plan, stage: str) -> bool:
    own = [made for name, made in plan.made.items() if name.split("@")[0] == stage]
    return bool(own) and all(own)


def estimate_hours(plan: Plan, params: Params, shape: model.Shape | None) -> dict[str, float]:
    """Stage → hours if it had to be run, by the rates of `Plan.assumptions`."""
    todo = plan.todo
    if todo is None:
        return {}
    seconds = {"downloads": sum(load.size or 0 for load in plan.loads if not load.there) / NETWORK}
    train, generate = (share * plan.device.operations for share in plan.device.shares)
    if plan.encoding:
        seconds["embed"] = plan.encoding / train
    # Processes of a CPU share its cores.
    together = train * (plan.processes if plan.device.gpu else 1)
    tokens = sum(calls.usage.prompt_tokens + calls.usage.completion_tokens for calls in plan.calls.values())
    if params.teacher.generator == "local" and (teacher := model.find_shape(str(params.teacher.model))):
        seconds["teach"] = model.generation_operations(teacher, tokens) / generate
    elif plan.calls:
        api = params.teacher.api
        left = sum(calls.asked - calls.known for calls in plan.calls.values())
        seconds["teach"] = max(
            left * ANSWER / api.concurrency,
            60 * left / api.requests_per_minute if api.requests_per_minute else 0,
            60 * tokens / api.tokens_per_minute if api.tokens_per_minute else 0,
        )
    if shape is not None:
        seconds["sft"] = model.training_operations(shape, todo.sft_tokens, plan.device.gpu) / together
        seconds["dpo"] = model.training_operations(shape, todo.dpo_tokens, plan.device.gpu) / together
        if params.generation.server is None:
            seconds["sample"] = model.generation_operations(shape, todo.sample_tokens) / generate
            seconds["expand"] = model.generation_operations(shape, todo.expand_tokens) / generate
    rate = SEARCHES[params.index.prebuilt is not None]
    seconds["feedback"] = todo.feedback_searches / rate
    seconds["retrieve"] = todo.retrieve_searches / rate
    return {stage: value / 3600 for stage, value in seconds.items()}
