"""Runs that were never trained, for tests of what compares their records."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from cifar_lightning.io.files import hash_file
from cifar_lightning.reporting.leaderboard import Leaderboard, rank_runs, read_runs
from cifar_lightning.reporting.leaderboard_table import format_csv


def make_run(folder: Path, seed: int, accuracy: float | None, **changes: Any) -> Path:
    """Write the records of a run as fit and test do.

    Args:
        folder: The run's folder.
        seed: Its seed.
        accuracy: The test accuracy; None for a run that is not tested.
        **changes: Settings and facts that differ from the usual ones.
    """
    config: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 10, "logger": None, "callbacks": changes.get("callbacks")},
        "model": {
            "arch": changes.get("arch", "cnn"),
            "arch_options": changes.get("arch_options"),
            "lr": changes.get("lr", 0.1),
            "tta": "none",
        },
        "data": {"dataset": changes.get("dataset", "synthetic"), "root": changes.get("root", "data"), "val_size": 9},
    }
    fit = {
        "dataset": "synthetic", "dataset_sha256": "ab", "validation_images": changes.get("val", 9), "seed": seed,
        "seconds": 10.0 + seed, "val_accuracy": 0.5, "parameters": changes.get("parameters", 1234),
        "epochs": changes.get("epochs", 10), "changes": changes.get("changes", []), "flops": 9_000_000,
        "hardware": changes.get("hardware", "a CPU"), "devices": 1, "precision": "32-true",
        "versions": {"cifar_lightning": "1", "torch": "2"}, "commit": changes.get("commit", "c0ffee"),
    }  # fmt: skip
    checkpoint = changes.get("checkpoint", "best.ckpt")
    folder.mkdir(parents=True)
    (folder / checkpoint).write_text(f"weights {seed}")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if changes.get("finished", True):
        (folder / "fit.json").write_text(json.dumps(fit))
    if accuracy is not None:
        described = f"folder {config['data']['root']}" if config["data"]["dataset"] == "folder" else "synthetic"
        test = {
            "dataset": described, "dataset_sha256": changes.get("digest", "cd"),
            "images": changes.get("images", 50), "of": changes.get("of", 50),
            "accuracy": accuracy, "checkpoint": checkpoint, "checkpoint_sha256": hash_file(folder / checkpoint),
            "model": config["model"] | {"tta": changes.get("tta", "none"), "lr": changes.get("test_lr", 0.1)},
            "precision": "32-true",
        }  # fmt: skip
        (folder / "test.json").write_text(json.dumps(test))
    return folder


def leaderboards(*paths: str) -> list[Leaderboard]:
    """Compare the runs in some folders, by default in ``runs``."""
    return rank_runs(read_runs([Path(path) for path in paths or ("runs",)])[0])


def csv_rows(*paths: str) -> list[dict[str, str]]:
    """Return the rows of their CSV table."""
    return list(csv.DictReader(format_csv(leaderboards(*paths)).splitlines()))
