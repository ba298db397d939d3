"""What is answered before anything heavy is imported, and what users' mistakes are answered with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cifar_lightning import __version__
from cifar_lightning.cli import COMMANDS, main
from cifar_lightning.io.config import read_config
from tests.conftest import FAST

LIGHT = (
    "import sys; from cifar_lightning.cli import main; "
    "status = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(status)"
)


ENDS = """
import atexit
from cifar_lightning import cli

def main():
    atexit.register(print, "tidied")
    print("done")
    return 3

cli.main = main
cli.run()
"""


def test_the_process_ends_with_the_status_and_all_that_was_to_be_done() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\ntidied\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_reader_that_has_gone_is_no_mistake(word: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words, settings = [sys.executable, "-m", "cifar_lightning", word], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, env=settings, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["fitt"], 2),
        (["fit", "--config", "nothing.yaml"], 2),
        (["test"], 2),
        (["test", "--ckpt_path", "nothing.ckpt"], 2),
        (["test", "--ckpt_path=best.ckpt"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answered_without_torch(words: list[str], status: int, here: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.endswith("False\n")
    assert "Traceback" not in done.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command}" in out for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cifar-lightning {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], "unknown command 'fitt'. Did you mean fit?"),
        (["fit", "--config"], "--config needs a value"),
        (["fit", "--config", "configs/cn.yaml"], "Did you mean configs/cnn.yaml?"),
        (["fit", "--config", "configs"], "is a folder"),
        (["predict"], "predict needs a checkpoint"),
        (
            ["test", "--ckpt_path", "model.onnx"],
            "an exported file; test needs the checkpoint that it was exported from",
        ),
        (["test", "--ckpt_path", "best.ckpt"], "no run under"),
        (["test", "--ckpt_path", "runs"], "is a folder"),
        (["test", "--ckpt_path", "https://x.org/best.ckpt"], "is a URL"),
        (["fit", "--ckpt_path=s3://bucket/best.ckpt"], "is a URL"),
        (["fit", "--model.lrr", "1"], "unknown option model.lrr. Did you mean model.lr"),
        (["fit", "--trainer.max_epoch", "1"], "Did you mean trainer.max_epochs"),
        (["fit", "--max_epochs", "3"], "Did you mean trainer.max_epochs"),
        (["fit", "--batch-size", "3"], "Did you mean data.batch_size"),
        (["fit", "--config", "ckpt.yaml"], "name it on the command line"),
        (
            ["fit", "--model.arch=timm:test_resnet", "--model.arch_options={features_only: true}"],
            "timm:test_resnet turned one image into a list; the output must be (1, 10)",
        ),
        (["fit", "--seed_everything=-3"], "seed_everything is -3"),
        (["fit", "--seed_everything=true"], "seed_everything is True"),
        (["fit", "--model.lr", "abc"], "model.lr is abc; it must be a number."),
        (["fit", "--model.optimizer", "adan"], "it must be one of adam, adamw, sgd, muon."),
        (["fit", "--trainer.max_epochs", "ten"], "it must be a whole number."),
        (["fit", "--model.lr=-1"], "it must be above 0"),
        (["fit", "--model.label_smoothing=1"], "below 1"),
        (["fit", "--model.arch", "cnnn"], "Did you mean cnn?"),
        (["fit", "--data.dataset", "cifr10"], "Did you mean cifar10"),
        (["fit", "--data.dataset=folder", "--data.root=nowhere"], "data.root nowhere does not exist"),
        (["fit", "--model.arch=vit", "--data.dataset=synthetic", "--data.image_size=64"], "--data.resize 32"),
        (["fit", "--data.dataset=synthetic", "--trainer.accelerator=tpu"], "trainer"),
        (["fit", "--trainer.devices=2000", "--trainer.accelerator=cpu"], "that many processes"),
        (["fit", "--config", "broken.yaml"], "is not valid YAML"),
        (["fit", "--config", "empty.yaml"], "is empty"),
        (["fit", "--config", "list.yaml"], "is no mapping"),
        (["fit", "--config", "key.yaml"], "unknown option model.lrr. Did you mean model.lr"),
        (["fit", "--data.dataset=synthetic", "--trainer.precision=16-true"], "Use 32-true, bf16-mixed or 16-mixed"),
        (["fit", "stray"], "stray"),
        (["fit", "configs/cnn.yaml"], "cifar-lightning fit --config configs/cnn.yaml"),
        (["fit", "--model.learning_rate=1"], "Did you mean model.lr?"),
        (["fit", "--epochs=1"], "Did you mean trainer.max_epochs?"),
        (["fit", "--config", "section.yaml"], "model is 3; it must hold options by name"),
        (["fit", "--config", "hollow.yaml"], "unknown option model.lrr. Did you mean model.lr"),
        (["fit", "--config", "nested.yaml"], "holds config; name it on the command line"),
        (["fit", "--config", "date.yaml"], "is not valid YAML"),
        (["fit", f"--data.batch_size={10**25}"], "at least 1 and below"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "configs").mkdir()
    (here / "configs" / "cnn.yaml").touch()
    (here / "broken.yaml").write_text("model: [")
    (here / "empty.yaml").touch()
    (here / "list.yaml").write_text("- 1")
    (here / "key.yaml").write_text("model: {lrr: 1}")
    (here / "ckpt.yaml").write_text("ckpt_path: http://x.org/best.ckpt")
    (here / "section.yaml").write_text("model: 3")
    (here / "hollow.yaml").write_text("model: {lrr: {}}")
    (here / "nested.yaml").write_text("config: 3")
    (here / "date.yaml").write_text("model: 2026-99-99")
    (here / "runs").mkdir()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("cifar-lightning: ")
    assert not list((here / "runs").iterdir()), "no run is left behind"


def test_checkpoints_that_are_none(here: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (trained / "best.ckpt").read_bytes()
    for content, message in [(b"", "cut short"), (b"hello", "no checkpoint"), (whole[: len(whole) // 2], "cut short")]:
        (here / "bad.ckpt").write_bytes(content)
        assert main(["test", "--ckpt_path", "bad.ckpt"]) == 2
        assert message in capsys.readouterr().err
    torch.save({"state_dict": {}}, here / "bad.ckpt")
    assert main(["test", "--ckpt_path", "bad.ckpt"]) == 2
    assert "not a checkpoint of cifar-lightning" in capsys.readouterr().err
    torch.save(torch.nn.Linear(1, 1), here / "bad.ckpt")
    assert main(["test", "--ckpt_path", "bad.ckpt"]) == 2
    assert "holds code" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "test"])
def test_help_needs_no_files(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--config", "nothing.yaml", "--ckpt_path", "nothing.ckpt", "--help"])
    assert "--model.arch" in capsys.readouterr().out


def test_the_newest_run_s_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(["best.ckpt", "last.ckpt"]):
        path = here / "runs" / "cnn" / f"version_{number}" / name
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (number, number))
    assert main(["test", "--ckpt_path", "best.ckpt"]) == 2
    assert "version_1, has no best.ckpt; it has last.ckpt" in capsys.readouterr().err


def test_a_checkpoint_of_other_classes(
    here: Path, trained: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "test",
        "--ckpt_path",
        str(trained / "best.ckpt"),
        "--data.dataset=folder",
        f"--data.root={image_folder}",
    ]
    assert main(words) == 2
    assert "3 classes, blue, green, red; the checkpoint was trained on 10, airplane" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.lr=.nan"], "model.lr is nan; it must be a finite number"),
        (["--model.weight_decay=.inf"], "model.weight_decay is inf"),
        (["--data.mixup=.nan"], "data.mixup is nan"),
        (["--data.mean=[.nan, 0, 0]", "--data.std=[1, 1, 1]"], "data.mean is [nan, 0.0, 0.0]"),
        (["--trainer.gradient_clip_val=.nan"], "trainer.gradient_clip_val is nan"),
        (["--checkpoint_every_n_minutes=.inf"], "checkpoint_every_n_minutes is inf"),
        (["--trainer.callbacks", "EarlyStopping"], "trainer.callbacks: EarlyStopping needs monitor"),
        (["--trainer.callbacks=[EarlyStopping]"], "trainer.callbacks: EarlyStopping needs monitor"),
        (["--trainer.callbacks=EarlyStoping"], "has no class EarlyStoping. Did you mean EarlyStopping?"),
        (["--trainer.callbacks=nowhere.Mine"], "trainer.callbacks names nowhere.Mine, which can't be used: No module"),
        (["--trainer.logger=nowhere.Mine"], "trainer.logger names nowhere.Mine, which can't be used: No module"),
        (
            ["--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitr: x}}]"],
            "trainer.callbacks: unknown option monitr. Did you mean monitor?",
        ),
        (["--config=empty.yaml"], "model is empty; it must hold options by name"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_values_and_classes_that_can_not_be(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty.yaml").write_text("model:\n")
    assert main(["fit", "--data.dataset=synthetic", *words]) == 2
    assert message in capsys.readouterr().err


def test_own_code_in_the_current_folder_and_a_config_that_is_printed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule is one for networks, callbacks and loggers; --print_config builds none of them."""
    (here / "my_code.py").write_text(
        "from lightning.pytorch import Callback\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Mine(Callback): pass\n"
        "class Log(CSVLogger): pass\n"
    )
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    words = ["--trainer.callbacks=my_code.Mine", "--trainer.logger={class_path: my_code.Log, init_args: {save_dir: x}}"]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--data.dataset=synthetic", *words, "--print_config"])
    (here / "printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config=printed.yaml", "--print_config"])
    assert capsys.readouterr().out == (here / "printed.yaml").read_text(encoding="utf-8")
    (here / "printed.yaml").write_text("allow_custom_arch: true")
    assert main(["fit", "--config=printed.yaml"]) == 2
    assert "holds allow_custom_arch" in capsys.readouterr().err


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
    "text",
    ["a: {b: 1e-4, c: '1e-4', 'ü': [ä, .nan, 2026-01-01]}", "a: |\n  größe\n  b\n", "a: &b ['😀', \"\\0\"]\nc: *b"],
)
def test_a_config_is_handed_over_in_ascii(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    content, handed = read_config(tmp_path / "c.yaml")
    assert handed.isascii()
    assert repr(yaml.safe_load(handed)) == repr(content)  # nan is not equal to itself
