"""What each process of test_launch's training runs: FOLDER holds `base`; process 0 writes what came out there.

torchrun ... together.py FOLDER
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from test_training import DPO, PAIRS, ROWS, SFT, Killed, kill_at

from qedistill.training.dpo import train_dpo
from qedistill.training.launch import is_main, through_accelerate
from qedistill.training.sft import train_sft

SFT_ROWS, DPO_ROWS = (ROWS[:16], ROWS[16:20]), (PAIRS[:8], PAIRS[8:12])  # whole batches of four


def both(folder: Path, out: str) -> dict[str, Any]:
    """Figures of SFT and of DPO on it; adapters `sft` and `dpo` in folder/out."""
    sft, dpo = folder / out / "sft", folder / out / "dpo"
    figures = {"sft": train_sft(folder / "base", sft, *SFT_ROWS, SFT, 1, folder / out / "work-sft")}
    figures["dpo"] = train_dpo(folder / "base", sft, dpo, *DPO_ROWS, DPO, 1, folder / out / "work-dpo")
    return figures


def main() -> None:
    folder = Path(sys.argv[1])
    figures: dict[str, Any] = both(folder, "two")
    work = folder / "resumed" / "work-sft"
    try:
        train_sft(folder / "base", folder / "resumed" / "sft", *SFT_ROWS, SFT, 1, work, kill_at(8))
    except Killed:
        figures["checkpoints"] = sorted(path.name for path in work.glob("checkpoint-*"))
        figures["resumed"] = train_sft(folder / "base", folder / "resumed" / "sft", *SFT_ROWS, SFT, 1, work)
    name = "figures.json" if is_main() else f"figures{os.environ['RANK']}.json"
    (folder / name).write_text(json.dumps(figures))


if __name__ == "__main__":
    from qedistill.params import Launch

    through_accelerate(Launch(launcher="accelerate", config=f"{sys.argv[1]}/cpu.yaml", processes=2))
    main()
