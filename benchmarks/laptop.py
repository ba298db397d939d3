"""The training of configs/laptop.yaml against that of release 0.1.0, in seconds.

    python -m benchmarks.laptop

Release 0.1.0 trained as long as it took for 8 epochs of all images. Each round trains one epoch of both recipes, one
after the other, each in a process of its own, and computes from the images per second how long the steps of all epochs
take. Starting and validation are left out. What accuracy each reaches is in the head of the recipe.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
import yaml

from benchmarks._results import CNN, fit_epoch, parse, ratio, record

LAPTOP = Path(CNN).with_name("laptop.yaml")
BEFORE = ["--model.winograd=false", "--data.skip_easy=0"]
"""What release 0.1.0 did not have."""
EPOCHS_BEFORE = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    options = parse(argv, __doc__, rounds=3)
    recipe = yaml.safe_load(LAPTOP.read_text(encoding="utf-8"))
    epochs, trained = recipe["trainer"]["max_epochs"], 1 - recipe["data"].get("skip_easy", 0)
    pairs = []
    for _ in range(options.rounds):
        pairs.append([fit_epoch(str(LAPTOP), [*options.flags, *flags]) for flags in ([], BEFORE)])
    now, before = ([pair[side] for pair in pairs] for side in (0, 1))
    record(
        options,
        "laptop",
        result=f"{ratio([epochs * trained / a / (EPOCHS_BEFORE / b) for a, b in pairs], '.2f')} of the time",
        this_project=f"{epochs} epochs of {trained:.0%} of the images, {median(now):,.0f} images/s",
        reference=f"{EPOCHS_BEFORE} epochs of all images, {median(before):,.0f} images/s",
        device=torch.device("cpu"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
