"""The options of the training commands: which one wins, what a config may hold, and what pretrained weights set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from cifar_lightning.cli import main
from tests.conftest import FAST, Refusal


def test_flags_win_over_configs_over_checkpoints_wherever_they_stand(
    here: Path, trained: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "one.yaml").write_text("model: {lr: 0.25, momentum: 0.5}\ndata: {dataset: synthetic}")
    (here / "two.yaml").write_text("model: {momentum: 0.75}")
    words = ["--model.lr=0.125", "--config", "one.yaml", "-c", "two.yaml", f"--data.root={data_root}"]
    assert main(["fit", *words, *FAST, "--trainer.max_epochs=1"]) == 0
    checkpoint = torch.load(here / "runs" / "two" / "version_0" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["lr"] == 0.125
    assert checkpoint["hyper_parameters"]["momentum"] == 0.75
    assert json.dumps(checkpoint["hyper_parameters"])  # flat primitives
    assert json.dumps(checkpoint["datamodule_hyper_parameters"])


@pytest.mark.slow
def test_configs_are_utf_8_whatever_the_locale(here: Path) -> None:
    text = "# größe\ndata: {dataset: synthetic}\ntrainer: {default_root_dir: dätä}"
    (here / "c.yaml").write_text(text, encoding="utf-8")
    ascii_locale = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "cifar_lightning", "fit", "--config=c.yaml"]
    done = subprocess.run(command, env=ascii_locale, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    # the config is read: what it asks for is what can't be
    assert "cifar-lightning: d\\xe4t\\xe4/c can't name a file in the encoding of this locale" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--seed_everything=-3"], "seed_everything is -3"),
        (["fit", "--seed_everything=true"], "seed_everything is true; it must be a whole number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_seed_that_can_not_be(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ckpt_path: http://x.org/best.ckpt", "allowed only on the command line"),
        ("model: [", "is not valid YAML"),
        ("", "is empty"),
        ("- 1", "is no mapping"),
        ("model: {lrr: 1}", "unknown option model.lrr. Did you mean model.lr"),
        ("model: 3", "model is 3; it must map option names to values"),
        ("model: {lrr: {}}", "unknown option model.lrr. Did you mean model.lr"),
        ("config: 3", "contains config, which is allowed only on the command line"),
        ("model: 2026-99-99", "is not valid YAML"),
    ],
)
def test_a_config_that_is_refused(text: str, message: str, refusal: Refusal) -> None:
    Path("config.yaml").write_text(text)
    assert message in refusal("fit", "--config", "config.yaml")


PRETRAINED = ["fit", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
PRETRAINED += ["--model.arch=torchvision:mobilenet_v2", "--model.weights=IMAGENET1K_V1"]


@pytest.mark.usefixtures("official_weights")
def test_images_are_resized_to_the_size_of_the_weights(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--data.batch_size=2", "--trainer.limit_train_batches=1", "--data.val_size=0"]
    assert main([*PRETRAINED, *few, f"--data.root={data_root}"]) == 0
    assert "enlarged to 224 × 224" in capsys.readouterr().out
    last = next(Path("runs").glob("*/version_0")) / "last.ckpt"
    assert torch.load(last, weights_only=True)["datamodule_hyper_parameters"]["resize"] == 224


@pytest.mark.parametrize(
    "options",
    [
        ["--data.resize=40"],
        ["--data.image_size=224"],
        ["--model.stem=cifar"],
        ["--model.arch=torchvision:vit_b_32", "--model.arch_options={image_size: 32}"],
    ],
)
def test_a_size_that_the_user_sets_is_used(
    options: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", "empty")
    for official in (torchvision.models.MobileNet_V2_Weights, torchvision.models.ViT_B_32_Weights):
        monkeypatch.setattr(official.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/net-0123abcd.pth")
    assert main([*PRETRAINED, "--data.root=nowhere", *options]) == 2
    said = capsys.readouterr()
    assert "0123abcd" in said.err
    assert "enlarged" not in said.out


@pytest.mark.parametrize(("freeze", "noted"), [("all_but_head", True), ("none", False)])
def test_freezing_random_weights_is_announced(
    freeze: str, noted: bool, fit: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, f"--model.freeze={freeze}", "--model.weights=null"]) == 0
    note = f"note: model.freeze {freeze} without model.weights: what is frozen keeps its random initial values."
    assert (note in capsys.readouterr().out) == noted


def test_a_mistake_in_a_config_names_the_file(here: Path, refusal: Refusal) -> None:
    Path("mine.yaml").write_text("model: {learning_rate: 3}", encoding="utf-8")
    assert "mine.yaml: unknown option model.learning_rate. Did you mean model.lr?" in refusal(
        "fit", "--config=mine.yaml"
    )
    Path("mine.yaml").write_text("model: [", encoding="utf-8")
    assert "<unicode string>" not in (said := refusal("fit", "--config=mine.yaml"))
    assert "line 1" in said
