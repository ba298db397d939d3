"""Processes started by torchrun or srun, each of which runs the same command: their number, and joining them."""

import os
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from cifar_lightning.errors import UsageError


def count_processes() -> tuple[str, int, int]:
    """Count the processes of the launcher.

    Returns:
        The launcher's name, the number of processes on each machine, and the number of machines; ("", 1, 1) without a
        launcher.

    Raises:
        UsageError: If Lightning can't connect these processes.
    """
    env = os.environ
    if TorchElasticEnvironment.detect():
        per_machine = int(env["LOCAL_WORLD_SIZE"])
        return "torchrun", per_machine, int(env["WORLD_SIZE"]) // per_machine
    # Only srun sets these. In a batch script, SLURM_NTASKS is the number of tasks that may be started.
    tasks, machines = int(env.get("SLURM_STEP_NUM_TASKS", 1)), int(env.get("SLURM_STEP_NUM_NODES", 1))
    managed = SLURMEnvironment.detect()
    if managed:
        try:
            SLURMEnvironment()
        except RuntimeError as error:  # With --ntasks, Lightning doesn't know how many tasks are on each machine.
            raise UsageError(str(error)) from error
    if tasks > 1 and (tasks % machines or not managed):
        raise UsageError(
            f"srun has started {tasks} tasks on {machines} machine{'s' * (machines > 1)}, which Lightning can't "
            "connect: their number differs between machines, or the job is interactive. Start one task, --ntasks=1, "
            "and set --trainer.devices; or submit the job with sbatch and --ntasks-per-node."
        )
    if tasks > 1:
        return "srun", tasks // machines, machines
    return "", 1, 1


def join_processes(trainer: Any) -> None:
    """Set ``devices`` and ``num_nodes`` to the number of processes, unless the user has set them.

    Args:
        trainer: The Trainer's settings as attributes, which are changed in place.

    Raises:
        UsageError: If the user has set other numbers than were started.
    """
    launcher, per_machine, machines = count_processes()
    if not launcher:
        return
    devices = trainer.devices
    requested = _count_devices(devices)
    if requested not in (None, per_machine) or trainer.num_nodes not in (1, machines):
        raise UsageError(
            f"{launcher} has started {per_machine} process{'es' * (per_machine > 1)} on each of {machines} "
            f"machine{'s' * (machines > 1)}, but trainer.devices is {devices} and trainer.num_nodes "
            f"{trainer.num_nodes}. Leave both out, or use --trainer.devices {per_machine} --trainer.num_nodes "
            f"{machines}."
        )
    trainer.devices = devices if requested else per_machine
    trainer.num_nodes = machines


def _count_devices(devices: int | str | list[int]) -> int | None:
    """Return the number of requested devices; None for the default and for all available ones."""
    if str(devices) in ("1", "auto", "-1"):
        return None
    if str(devices).isdigit():
        return int(str(devices))
    named = devices if isinstance(devices, list) else [name for name in str(devices).split(",") if name]
    return len(named)


def refuse_processes(command: str) -> None:
    """Reject several processes for a command that works in one.

    Args:
        command: The command's name.

    Raises:
        UsageError: If a launcher has started several processes.
    """
    launcher, per_machine, machines = count_processes()
    if per_machine * machines > 1:
        raise UsageError(
            f"{launcher} has started {per_machine * machines} processes, but {command} works in one: "
            f"start it without {launcher}: cifar-lightning {command} …"
        )
