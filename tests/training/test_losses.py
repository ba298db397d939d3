"""The training loss by name."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.reporting.metrics_log import read_history
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.losses import build_loss, check_loss, class_weights
from tests.conftest import RUN, Refusal

LOGITS, LABELS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]]), torch.tensor([0, 2])


class Focal:
    """Focal loss (https://arxiv.org/abs/1708.02002)."""

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        nll = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-nll)) ** self.gamma * nll).mean()


def squared(logits: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    return scale * (logits.gather(1, labels[:, None]) - 1).square().mean()


def unreduced(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def detached(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.detach(), labels)


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


ME = "tests.training.test_losses"


def test_losses_are_found_by_name() -> None:
    smooth = build_loss("cross_entropy", label_smoothing=0.1)
    assert torch.equal(smooth(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))
    margin = build_loss("torch.nn:MultiMarginLoss", {"p": 2})
    assert torch.equal(margin(LOGITS, LABELS), F.multi_margin_loss(LOGITS, LABELS, p=2))
    weighted = build_loss("torch.nn:CrossEntropyLoss", {"weight": [1, 2, 3]})
    assert torch.equal(weighted(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, torch.tensor([1.0, 2.0, 3.0])))
    assert torch.equal(build_loss(f"{ME}:Focal", {"gamma": 1.0})(LOGITS, LABELS), Focal(1.0)(LOGITS, LABELS))
    assert torch.equal(build_loss(f"{ME}:squared", {"scale": 3.0})(LOGITS, LABELS), squared(LOGITS, LABELS, 3.0))
    assert build_loss(f"{ME}:squared")(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_balanced_class_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [90, 7, 4])
    data = SimpleNamespace(class_counts=torch.tensor([90, 7, 4]))
    weights = class_weights("balanced", data)
    assert weights is not None
    assert torch.allclose(weights, torch.tensor([101 / 270, 101 / 21, 101 / 12]))
    each = F.cross_entropy(LOGITS[:1].repeat(101, 1), torch.from_numpy(labels), weights, reduction="none")
    assert torch.allclose(
        torch.stack([each[labels == k].sum() / -LOGITS[0].log_softmax(0)[k] for k in range(3)]), torch.tensor(101 / 3)
    )
    loss = build_loss("cross_entropy", class_weights=weights)
    assert torch.equal(loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, weights))
    assert class_weights("none", data) is None
    given = class_weights([1, 0, 2.5], data)
    assert given is not None
    assert given.tolist() == [1, 0, 2.5]
    absent = class_weights("balanced", SimpleNamespace(class_counts=torch.tensor([4, 0])))
    assert absent is not None
    assert absent.tolist() == [0.5, 0]
    with pytest.raises(UsageError, match=r"needs the number of training images of each class"):
        class_weights("balanced", object())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("even", r"must be none, balanced, or a list of a number > 0 for each class"),
        ([1.0, 2.0], r"has 2 numbers, but there are 3 classes"),
        ([1.0, -1.0, 1.0], r"must be none, balanced"),
        ([0.0, 0.0, 0.0], r"must be none, balanced"),
    ],
)
def test_class_weights_that_can_not_be(weights: str | list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageClassifier(num_classes=3, class_weights=weights)
    with pytest.raises(UsageError, match=r"are those of cross_entropy, and model\.loss is torch\.nn:MultiMarginLoss"):
        ImageClassifier(num_classes=3, class_weights="balanced", loss="torch.nn:MultiMarginLoss")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.loss=cross_entrpy"], "Did you mean cross_entropy?"),
        (["--model.loss=torch.nn:MultiMarginLos"], "Did you mean MultiMarginLoss"),
        (["--model.loss=torch.nn:Linear"], "torch.nn has no loss 'Linear'"),
        (
            ["--model.loss=torch.nn:MultiMarginLoss", "--model.loss_options={q: 2}"],
            "does not accept model.loss_options",
        ),
        (
            ["--model.loss=torch.nn:CrossEntropyLoss", "--model.loss_options={weight: [a]}"],
            "does not accept model.loss_options {'weight': ['a']}",
        ),
        (["--model.loss=torch.nn:BCEWithLogitsLoss"], "does not accept logits (B, K) float and labels (B,) int64"),
        (["--model.loss=no_module:Loss"], "can't be imported"),
        ([f"--model.loss={ME}:unreduced"], "returned a tensor of (2,); it must return one number"),
        ([f"--model.loss={ME}:detached"], "without a gradient"),
        ([f"--model.loss={ME}:Weighted"], "has weights of its own"),
        ([f"--model.loss={ME}:Focal", "--model.label_smoothing=0.1"], "label_smoothing 0.1 is an option of cross_entr"),
        ([f"--model.loss={ME}:squared", "--data.mixup=0.2"], "--data.mixup 0 --data.cutmix 0"),
        (["--model.loss_options={gamma: 1}"], "--model.loss torch.nn:CrossEntropyLoss"),
    ],
)
def test_losses_that_can_not_be_trained_are_refused_before_training(
    words: list[str], message: str, refusal: Refusal
) -> None:
    assert message in refusal("fit", "--data.dataset=synthetic", *words)


def test_losses_that_accept_shares_of_classes_work_with_mixup() -> None:
    check_loss("torch.nn:CrossEntropyLoss", build_loss("torch.nn:CrossEntropyLoss"), 10, mixed=True)
    with pytest.raises(UsageError, match="mixup and cutmix"):
        check_loss("torch.nn:MultiMarginLoss", build_loss("torch.nn:MultiMarginLoss"), 10, mixed=True)


def test_only_training_uses_the_loss_and_a_checkpoint_alone_does_not_import_it(
    fit: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own_loss.py").write_text(
        "from pathlib import Path\nfrom torch.nn import functional as F\nPath('imported').touch()\n"
        "def tripled(logits, labels):\n    return 3 * F.cross_entropy(logits, labels)\n"
    )
    monkeypatch.syspath_prepend(str(here))
    assert main([*fit, "--trainer.max_epochs=1", "--model.loss=own_loss:tripled", "--model.lr=1e-9"]) == 0
    assert "own_loss" not in capsys.readouterr().out, "test and predict need no loss"
    losses = Checkpoint.read(RUN / "last.ckpt").model_settings
    assert losses["loss"] == "own_loss:tripled"
    monkeypatch.delitem(sys.modules, "own_loss")
    (here / "imported").unlink()
    assert main(["test", f"--ckpt_path={RUN / 'best.ckpt'}"]) == 0
    assert main(["fit", f"--ckpt_path={RUN / 'last.ckpt'}", "--trainer.max_epochs=2"]) == 2
    assert "the loss of" in (said := capsys.readouterr().err)
    assert "--model.loss own_loss:tripled" in said
    assert not (here / "imported").exists()
    assert main(["fit", f"--ckpt_path={RUN / 'last.ckpt'}", "--trainer.max_epochs=2", "--allow_custom_code"]) == 0
    assert (here / "imported").exists()


def test_val_loss_is_the_negative_log_likelihood_whatever_is_trained(fit: list[str], here: Path) -> None:
    words = [*fit, "--trainer.max_epochs=1", "--model.lr=1e-9", "--trainer.accelerator=cpu"]
    assert main(words) == 0
    assert main([*words, f"--model.loss={ME}:Focal"]) == 0
    plain, focal = (read_history(RUN.with_name(f"version_{n}"))[0] for n in (0, 1))
    assert focal["val/loss"] == plain["val/loss"]
    assert focal["train/loss"] < 0.95 * plain["train/loss"]
