"""Processes started by torchrun or srun train together, or are rejected."""

from types import SimpleNamespace

import pytest

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.launcher import count_processes, join_processes

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}
SRUN = {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}


@pytest.fixture
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("launched", [TORCHRUN, SRUN], indirect=True, ids=["torchrun", "srun"])
@pytest.mark.parametrize(("devices", "num_nodes"), [(1, 1), ("auto", 1), (-1, 1), (2, 2), ("2", 1), (1, 2)])
def test_processes_are_joined(launched: None, devices: int | str, num_nodes: int) -> None:
    trainer = SimpleNamespace(devices=devices, num_nodes=num_nodes)
    join_processes(trainer)
    assert (int(trainer.devices), trainer.num_nodes) == (2, 2)


@pytest.mark.parametrize("launched", [TORCHRUN], indirect=True)
@pytest.mark.parametrize("devices", ["2,3", [2, 3]])
def test_devices_that_the_user_sets_stay(launched: None, devices: str | list[int]) -> None:
    trainer = SimpleNamespace(devices=devices, num_nodes=1)
    join_processes(trainer)
    assert (trainer.devices, trainer.num_nodes) == (devices, 2)


@pytest.mark.parametrize("launched", [TORCHRUN], indirect=True)
@pytest.mark.parametrize(("devices", "num_nodes"), [(4, 1), (2, 4), ([0, 1, 2], 2), ("1,2,3", 2), ([3], 1), ("3,", 1)])
def test_other_numbers_are_rejected_with_the_correct_ones(
    launched: None, devices: int | str | list[int], num_nodes: int
) -> None:
    with pytest.raises(
        UsageError, match=r"torchrun has started 2 processes .*--trainer.devices 2 --trainer.num_nodes 2"
    ):
        join_processes(SimpleNamespace(devices=devices, num_nodes=num_nodes))


@pytest.mark.parametrize("launched", [{}, SLURM], indirect=True, ids=["alone", "in a batch script"])
def test_a_single_process_stays_single(launched: None) -> None:
    assert count_processes() == ("", 1, 1)
    trainer = SimpleNamespace(devices=3, num_nodes=1)
    join_processes(trainer)
    assert trainer.devices == 3


@pytest.mark.parametrize(
    ("launched", "message"),
    [
        ({**SRUN, "SLURM_JOB_NAME": "bash"}, "which Lightning can't connect"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "3"}, "which Lightning can't connect"),
        ({"SLURM_NTASKS": "2"}, "Use `--ntasks-per-node=2` instead"),
    ],
    indirect=["launched"],
)
def test_tasks_that_lightning_can_t_connect(launched: None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        count_processes()


@pytest.mark.parametrize("launched", [TORCHRUN], indirect=True)
@pytest.mark.parametrize("words", [["bench"], ["sweep", "--config", "sweep"]], ids=" ".join)
def test_commands_for_one_process_reject_several(
    launched: None, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert f"start it without torchrun: cifar-lightning {words[0]}" in capsys.readouterr().err
