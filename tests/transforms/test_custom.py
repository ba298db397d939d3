"""The user's own augmentation."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.transforms.custom import CustomAugmentation
from tests.conftest import TINY

MODULE = """
import torch

def noise(images, most=50):
    return images // 2 + torch.randint(0, most, images.shape, dtype=torch.uint8, device=images.device)

class Constant:
    def __init__(self, value):
        self.value = value
    def __call__(self, images):
        return torch.full_like(images, self.value)

def floats(images):
    return images / 255

def fails(images):
    raise ZeroDivisionError("oh")
"""

IMAGES = torch.arange(4 * 3 * 8 * 8).reshape(4, 3, 8, 8).to(torch.uint8)
INDICES = torch.tensor([7, 3, 5, 2])


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_augmentation.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "own_augmentation", raising=False)


@pytest.mark.usefixtures("own")
def test_random_numbers_follow_from_seed_epoch_and_images() -> None:
    augment = CustomAugmentation("own_augmentation:noise", {"most": 30})
    torch.manual_seed(1)
    first = augment(IMAGES, INDICES, seed=0, epoch=0)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))  # what others draw is not affected
    assert torch.equal(first, augment(IMAGES, INDICES, seed=0, epoch=0))
    for other in (augment(IMAGES, INDICES, seed=1, epoch=0), augment(IMAGES, INDICES, seed=0, epoch=1)):
        assert not torch.equal(first, other)


def test_transforms_of_torchvision_treat_each_image_by_itself() -> None:
    augment = CustomAugmentation("torchvision.transforms.v2:RandomErasing", {"p": 0.5})
    changed = augment(IMAGES, INDICES, seed=0, epoch=0)
    alone = torch.cat([augment(IMAGES[k, None], INDICES[k, None], seed=0, epoch=0) for k in range(4)])
    assert torch.equal(changed, alone)
    assert 0 < sum(torch.equal(a, b) for a, b in zip(changed, IMAGES, strict=True)) < 4


@pytest.mark.usefixtures("own")
def test_a_class_is_made_with_its_options() -> None:
    augment = CustomAugmentation("own_augmentation:Constant", {"value": 7})
    assert (augment(IMAGES, INDICES, seed=0, epoch=0) == 7).all()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own_augmentation:noise", {"mst": 3}, "mst"),
        ("own_augmentation:Constant", {}, "does not accept"),
        ("own_augmentation:floats", {}, r"returned torch.float32 \(4, 3, 8, 8\)"),
        ("own_augmentation:fails", {}, "ZeroDivisionError: oh"),
        ("own_augmentation:none", {}, "can't be imported"),
    ],
)
def test_mistakes(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CustomAugmentation(name, options)(IMAGES, INDICES, seed=0, epoch=0)


@pytest.mark.usefixtures("own")
def test_a_resumed_run_draws_the_same(data_root: Path) -> None:
    words = [
        *TINY,
        f"--data.root={data_root}",
        "--data.augmentation=own_augmentation:noise",
        "--model.schedule=constant",
    ]  # whatever its length
    assert main(["fit", *words, "--trainer.max_epochs=2"]) == 0
    assert main(["fit", *words, "--trainer.max_epochs=2", "--trainer.max_steps=5"]) == 0
    resumed = [
        "fit", "--ckpt_path=runs/cnn/version_1/last.ckpt", "--trainer.max_steps=-1", "--allow_custom_code",
        "--trainer.enable_progress_bar=false", *TINY[:2],
    ]  # fmt: skip
    assert main(resumed) == 0
    whole, again = (torch.load(f"runs/cnn/version_{n}/last.ckpt", weights_only=True)["state_dict"] for n in (0, 1))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
