"""The classifier under a Trainer of one's own and under fit."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Literal, cast
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.transforms.augment import tta_views
from tests.conftest import FAST, Refusal


def test_in_python(data_root: Path, here: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=100, batch_size=32)
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = ImageClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
        trainer.fit(model, data)
        (result,) = trainer.test(model, data, verbose=False)
    assert 0 < result["test/acc"] < 1


@pytest.mark.filterwarnings("ignore")  # of Lightning's, which the command line silences
@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_network_for_another_number_of_classes(command: str, image_folder: Path, tmp_path: Path) -> None:
    data = ImageDataModule("folder", root=str(image_folder), val_size=6, image_size=32)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    with pytest.raises(UsageError, match=r"10 outputs, but the data have 3 classes.*num_classes=3"):
        getattr(trainer, command)(ImageClassifier("cnn"), datamodule=data)


def test_a_second_fit_trains_the_same_parameters(here: Path, data_root: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=0, batch_size=32, eval_batch_size=100)
    model = ImageClassifier(
        "speednet", arch_options={"widths": [8, 8, 8]}, optimizer="muon", schedule="linear", warmup=0
    )
    counts, filters = [], []
    for _ in range(2):
        trainer = Trainer(
            max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
            trainer.fit(model, data)
        counts.append(sum(len(group["params"]) for group in trainer.optimizers[0].param_groups))
        filters.append(model.net.state_dict()["0.weight"].clone())
    assert counts[0] == counts[1]
    assert torch.equal(*filters), "the first layer is computed from data once"


def test_speednet_is_whitened_by_the_first_batch_alone(here: Path, data_root: Path) -> None:
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    speednet = ["--model.arch=speednet", "--model.arch_options={widths: [8, 8, 8]}", "--model.optimizer=muon"]
    assert main(["fit", *words, *speednet]) == 0
    (path,) = here.rglob("last.ckpt")
    first = torch.load(path, weights_only=True)["state_dict"]["net.0.weight"]
    assert torch.equal(first[12:], -first[:12])
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", *FAST[1:]]) == 0
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["net.0.weight"], first)


@pytest.mark.parametrize("tta", ["none", "flip", "flip_translate"])
def test_test_time_augmentation_averages_logits(tta: Literal["none", "flip", "flip_translate"]) -> None:
    torch.manual_seed(0)
    model, images = ImageClassifier(tta=tta), torch.randn(4, 3, 32, 32)
    batch = (images, torch.zeros(4).long(), torch.arange(4))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
        (probabilities,) = cast("list[torch.Tensor]", trainer.predict(model, DataLoader([batch], batch_size=None)))  # type: ignore[arg-type]
    with torch.no_grad():
        logits = sum(weight * model(view) for weight, view in tta_views(images, tta))
    torch.testing.assert_close(probabilities, torch.as_tensor(logits).softmax(1))
    assert torch.allclose(model(images).softmax(1), probabilities) == (tta == "none")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_clipping_works_with_the_chosen_precision(optimizer: str, here: Path, data_root: Path) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, f"--model.optimizer={optimizer}"]
    for epochs in (1, 2):
        clipped = [f"--trainer.max_epochs={epochs}", "--trainer.gradient_clip_val=1e-9"]
        assert main([*words, *clipped, "--trainer.precision=bf16-mixed"]) == 0
    first, second = (
        torch.load(f"runs/cnn/version_{n}/last.ckpt", weights_only=True)["state_dict"]["net.0.weight"] for n in range(2)
    )
    # adam and the filters of muon make steps of the same size of the smallest gradients
    assert torch.allclose(first, second, atol=1e-7) == (optimizer == "sgd")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_leaves_a_plain_checkpoint(here: Path, data_root: Path) -> None:
    (here / "small.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    for number, compiled in enumerate(("false", "true")):
        assert main(["fit", *words, "--model.arch=small:Net", f"--model.compile={compiled}"]) == 0
        weights = torch.load(f"runs/small-Net/version_{number}/last.ckpt", weights_only=True)["state_dict"]
        assert list(weights)[:2] == ["net.2.weight", "net.2.bias"]
    assert main(["test", "--ckpt_path=best.ckpt", "--model.arch=small:Net"]) == 0


@pytest.mark.slow
def test_compiling_without_a_compiler(
    here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--model.compile=true"]
    assert main(["fit", *words, "--model.arch=torchvision:squeezenet1_1"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["fit", "--model.arch=timm:test_resnet", "--model.arch_options={features_only: true}"],
            "timm:test_resnet turned one image into a list; the output must be (1, 10)",
        ),
        (["fit", "--model.lr=-1"], "it must be above 0"),
        (["fit", "--model.label_smoothing=1"], "below 1"),
        (["fit", "--model.arch", "cnnn"], "Did you mean cnn?"),
        (["fit", "--model.arch=vit", "--data.dataset=synthetic", "--data.image_size=64"], "--data.resize 32"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_network_or_a_value_that_can_not_be(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize(("freeze", "trained"), [("all_but_head", {"classifier.1"}), ("none", None)])
def test_frozen_layers_are_not_trained_and_stay_in_evaluation_mode(freeze: str, trained: set[str] | None) -> None:
    model = ImageClassifier(arch="torchvision:mobilenet_v2", freeze=freeze)  # type: ignore[arg-type]
    for mode in (True, False, True):
        model.train(mode)
    norms = [m.training for m in model.net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(norms) == {freeze == "none"}
    assert model.net.get_submodule("classifier").training
    learning = {name.rpartition(".")[0] for name, p in model.net.named_parameters() if p.requires_grad}
    assert trained is None or learning == trained


@pytest.mark.parametrize(
    ("option", "message"), [("--model.optimizer=muon", "to muon"), ("--trainer.num_nodes=2", "in one process only")]
)
def test_where_the_backbone_cannot_be_unfrozen(
    option: str, message: str, here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--model.arch=torchvision:mobilenet_v2"]
    words += [*FAST, "--trainer.max_epochs=1", "--trainer.callbacks+=BackboneFinetuning", "--trainer.accelerator=cpu"]
    with mock.patch.dict(os.environ):  # Lightning sets variables for the other processes here.
        assert main([*words, option]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("runs/*"))
