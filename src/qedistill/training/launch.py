"""Training in several processes: a stage becomes `accelerate launch` of itself.

The launched processes run the stage's own script. Process 0 writes, logs and tracks; the others only compute.
"""

import os
import sys
from pathlib import Path

from qedistill.errors import UserError
from qedistill.params import Launch

STRATEGIES = ("MULTI_GPU", "FSDP", "DEEPSPEED")  # accelerate's names; with them it starts processes by torchrun


def through_accelerate(launch: Launch) -> None:
    """Replace this process by `accelerate launch` of its own command, where `training.launcher` says so.

    Returns where it does not, and in a process that was launched, by this or by hand. The process is replaced (exec), so
    that signals and the exit status are the launcher's.

    Raises:
        UserError: the config file is missing, no config of accelerate, or of no strategy in STRATEGIES.
    """
    if launch.launcher == "none" or launched():
        return
    _check_config(launch.config)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", launch.config]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--num_processes", str(launch.processes), *sys.argv])


def _check_config(path: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from yaml import YAMLError

    if not Path(path).is_file():
        raise UserError(f"training.config {path}: no such file; accelerate/ holds some")
    try:
        config = load_config_from_file(path)
    except (ValueError, TypeError, AttributeError, YAMLError) as error:
        raise UserError(f"training.config {path}: no config of accelerate: {' '.join(str(error).split())}") from None
    if config.distributed_type.value not in STRATEGIES:
        raise UserError(f"training.config {path}: distributed_type must be one of {', '.join(STRATEGIES)}")


def launched() -> bool:
    """Whether torchrun, which `accelerate launch` uses, started this process."""
    from torch.distributed import is_torchelastic_launched

    return bool(is_torchelastic_launched())


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes, logs and tracks."""
    return os.environ.get("RANK", "0") == "0"


def strategy() -> list[str | None]:
    """What a checkpoint depends on besides its inputs: the number of processes and how they share the model."""
    names = ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return [os.environ.get(name) for name in names]
