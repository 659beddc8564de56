"""The student: fetching its base weights, LoRA by SFT, alignment by DPO.

`model` holds what every stage needs of a student; `sft` and `dpo` are the two trainings; `run` is what they share.
PyTorch, TRL and the like load inside the functions: importing these modules costs nothing.
"""

import os
import warnings

# TRL pings the Hugging Face hub each time a trainer is made. A pipeline that may run on private queries tells nobody.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Where a hub model has pickled weights alone, transformers would ask a service to convert them, and take what it offers.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
# TRL and PEFT ask transformers for it by its old name; nothing a user could do about it.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
