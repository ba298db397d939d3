"""What users of other programs write, and what they are told; nothing heavy is imported for it."""

import shlex
from pathlib import Path

import pytest

from cifar_lightning.commands import COMMANDS
from cifar_lightning.commands.options import hints
from tests.conftest import Refusal


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("train", "Did you mean fit?"),
        ("fti", "Did you mean fit?"),
        ("evaluate", "Did you mean test or validate?"),
        ("infer", "Did you mean predict?"),
        ("tune", "Did you mean sweep?"),
        ("list", "Did you mean recipes, models or leaderboard?"),
        ("resume", "Did you mean fit --ckpt_path last?"),
        ("resnet50", "Did you mean fit --model.arch torchvision:resnet50?"),
        ("resnet18", "Did you mean fit --config resnet18?"),
        ("fit resnet50", "Did you mean fit --model.arch torchvision:resnet50?"),
        ("fit --model resnet18", "Did you mean --config resnet18?"),
        ("here.jpg", "Did you mean predict --ckpt_path best.ckpt here.jpg?"),
        ("some.ckpt", "Did you mean predict --ckpt_path some.ckpt YOUR_IMAGES?"),
        ("--epochs=3", "Did you mean to write the command first"),
        ("fit --resume", "--ckpt_path last"),
        ("fit --resume x.ckpt", "--ckpt_path x.ckpt"),
        ("fit --device cpu", "--trainer.accelerator cpu"),
        ("fit --device cuda", "--trainer.accelerator gpu"),
        ("fit --device=cuda:1", "--trainer.accelerator gpu --trainer.devices '[1]'"),
        ("fit --device 0,1", "--trainer.accelerator gpu --trainer.devices '[0,1]'"),
        ("fit --gpus 1", "--trainer.accelerator gpu --trainer.devices 1"),
        ("fit -e 3 --lr 0.1", "--trainer.max_epochs 3 --model.lr 0.1"),
        ("fit --batch-size 64", "--data.batch_size 64"),
        ("fit --arch vgg16", "--model.arch torchvision:vgg16"),
        ("fit --model speednet", "--model.arch speednet"),
        ("fit --data CIFAR-10", "--data.dataset cifar10"),
        ("fit --data 'my images'", "--data.dataset folder --data.root 'my images'"),
        ("fit --weights x.ckpt", "--ckpt_path x.ckpt"),
        ("fit --weights DEFAULT", "--model.weights DEFAULT"),
        ("fit --pretrained", "--model.weights DEFAULT"),
        ("fit epochs=3 model.lr=0.1", "--trainer.max_epochs 3 --model.lr 0.1"),
        ("test --checkpoint x.ckpt", "--ckpt_path x.ckpt"),
        ("test --model x.ckpt", "--ckpt_path x.ckpt"),
        ("predict --weights x.ckpt --source a.jpg", "--ckpt_path x.ckpt a.jpg (images need no option)"),
        ("serve --checkpoint x.ckpt", "--model x.ckpt"),
        ("export --model x.ckpt", "--ckpt_path x.ckpt"),
        ("fit --num-workers 4", "Leave it out: images are loaded without worker processes."),
    ],
)
def test_words_of_other_programs(line: str, hint: str, here: Path, refusal: Refusal) -> None:
    (here / "here.jpg").touch()
    message = refusal(*shlex.split(line))
    assert hint in message


def test_a_command_of_this_program_is_no_synonym() -> None:
    assert not set(hints.COMMANDS) & set(COMMANDS)
