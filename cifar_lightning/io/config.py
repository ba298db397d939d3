"""Settings, as a run's ``config.yaml`` holds them, without the command line's parser."""

from collections.abc import Mapping
from typing import Any

PER_RUN_SETTINGS = (
    "seed_everything", "ckpt_path", "runs", "checkpoint_every_n_minutes", "model.stop_on_nan", "data.seed", "data.root",
    "data.url", "data.device_cache", "data.eval_batch_size", "trainer.accelerator", "trainer.default_root_dir",
    "trainer.enable_model_summary", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.logger",
    "trainer.precision", "trainer.profiler",
)  # fmt: skip
"""Prefixes of the dotted names of settings that may differ between runs of one recipe.

They either do not change what is trained, or their effect is in the run's records (hardware, precision, data digest).
"""


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to a dictionary of dotted names, such as "model.lr".

    Args:
        settings: Mappings within mappings.
        prefix: Put before each name.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
