"""Options of the training commands: names, values and classes that are refused, and those that are printed."""

import sys
from pathlib import Path

import pytest

from cifar_lightning.cli import main
from tests.conftest import Refusal


def test_null_for_an_option_that_needs_a_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for config in ("data: {batch_size: null}", "model: {lr: null}"):
        Path("null.yaml").write_text(config)
        assert main(["fit", "--config=null.yaml", "--data.dataset=synthetic"]) == 2
        assert "is null; it needs a value" in capsys.readouterr().err


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
        (["--config=empty.yaml"], "model is empty; it must map option names to values"),
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
    (here / "printed.yaml").write_text("allow_custom_arch: true")  # its older name
    assert main(["fit", "--config=printed.yaml"]) == 2
    assert "contains allow_custom_code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--model.lrr", "1"], "unknown option model.lrr. Did you mean model.lr"),
        (["fit", "--trainer.max_epoch", "1"], "Did you mean trainer.max_epochs"),
        (["fit", "--max_epochs", "3"], "Did you mean trainer.max_epochs"),
        (["fit", "--batch-size", "3"], "Did you mean --data.batch_size 3?"),
        (["fit", "--model.lr", "abc"], "model.lr is abc; it must be a number."),
        (["fit", "--model.optimizer", "adan"], "it must be one of adam, adamw, sgd, muon."),
        (["fit", "--trainer.max_epochs", "ten"], "it must be a whole number."),
        (["fit", "stray"], "stray"),
        (["fit", "demo", "stray"], "unexpected argument: stray. The names of options begin with --."),
        (["fit", "--model.lr"], "--model.lr needs a value."),
        (["fit", "demo", "--model.arch", "resnet50"], "Did you mean torchvision:resnet50?"),
        (["fit", "--model.learning_rate=1"], "Did you mean model.lr?"),
        (["fit", "--trainer.gpus=1"], "Did you mean trainer.accelerator and trainer.devices?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistaken_option_gets_one_message(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal(*words)
