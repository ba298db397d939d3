"""The processes that torchrun or srun has started, each of which runs the same command."""

import os
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from cifar_lightning.errors import UsageError


def count_processes() -> tuple[str, int, int]:
    """Counts the processes of the launcher.

    Returns:
        Its name, how many processes run on each machine, and on how many machines; ("", 1, 1) without a launcher.

    Raises:
        UsageError: If Lightning can't join these processes.
    """
    env = os.environ
    if TorchElasticEnvironment.detect():
        per_machine = int(env["LOCAL_WORLD_SIZE"])
        return "torchrun", per_machine, int(env["WORLD_SIZE"]) // per_machine
    # srun alone sets these: in a batch script SLURM_NTASKS is the number of tasks that it may start
    tasks, machines = int(env.get("SLURM_STEP_NUM_TASKS", 1)), int(env.get("SLURM_STEP_NUM_NODES", 1))
    managed = SLURMEnvironment.detect()
    if managed:
        try:
            SLURMEnvironment()
        except RuntimeError as error:  # --ntasks, of which Lightning can't tell how many are on each machine
            raise UsageError(str(error)) from error
    if tasks > 1 and (tasks % machines or not managed):
        raise UsageError(
            f"srun has started {tasks} tasks on {machines} machine{'s' * (machines > 1)}, which Lightning can't join: "
            "they are not as many on each, or the job is interactive. Start one task, --ntasks=1, and name "
            "--trainer.devices, or submit the job with sbatch and --ntasks-per-node."
        )
    if tasks > 1:
        return "srun", tasks // machines, machines
    return "", 1, 1


def join_processes(trainer: Any) -> None:
    """Sets ``devices`` and ``num_nodes`` to the processes that were started, where no other number is asked for.

    Args:
        trainer: The Trainer's settings, as attributes.

    Raises:
        UsageError: If other numbers are asked for than were started.
    """
    launcher, per_machine, machines = count_processes()
    if not launcher:
        return
    devices = trainer.devices
    asked = _count_devices(devices)
    if asked not in (None, per_machine) or trainer.num_nodes not in (1, machines):
        raise UsageError(
            f"{launcher} has started {per_machine} process{'es' * (per_machine > 1)} on each of {machines} "
            f"machine{'s' * (machines > 1)}, but trainer.devices is {devices} and trainer.num_nodes "
            f"{trainer.num_nodes}. Leave both out, or name --trainer.devices {per_machine} --trainer.num_nodes "
            f"{machines}."
        )
    trainer.devices = devices if asked else per_machine
    trainer.num_nodes = machines


def _count_devices(devices: int | str | list[int]) -> int | None:
    """Returns how many devices are asked for; None for the default and for all there are."""
    if str(devices) in ("1", "auto", "-1"):
        return None
    if str(devices).isdigit():
        return int(str(devices))
    named = devices if isinstance(devices, list) else [name for name in str(devices).split(",") if name]
    return len(named)


def refuse_processes(command: str) -> None:
    """Refuses to run a command in several processes at once that works in one.

    Raises:
        UsageError: If a launcher has started several.
    """
    launcher, per_machine, machines = count_processes()
    if per_machine * machines > 1:
        raise UsageError(
            f"{launcher} has started {per_machine * machines} processes, but {command} works in one: start it without "
            f"{launcher}: cifar-lightning {command} …"
        )
