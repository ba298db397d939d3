"""What is refused before PyTorch is imported is what the parser refuses, in the same words."""

from typing import Any

import pytest

from cifar_lightning.commands.fit import parse
from cifar_lightning.commands.options.check import check_config, check_words, unknown_option
from cifar_lightning.errors import UsageError

WRONG = [
    "--model.lrr=1",
    "--trainer.max_epoch=1",
    "--batch-size=3",
    "--model.lr=abc",
    "--model.optimizer=adan",
    "--trainer.max_epochs=ten",
    "--trainer.max_epochs=1.5",
    "--data.batch_size=1.5",
    "--data.batch_size=0",
    "--data.device_cache=maybe",
    "--model.compile=maybe",
    "--model.compile=1",
    "--trainer.deterministic=maybe",
    "--trainer.precision=half",
    "--runs=0",
    "--runs=true",
    "--seed_everything=-1",
    "--data.translate=-1",
    "--data.resize=big",
]

RIGHT = [
    "--model.lr=1e-3",
    "--model.lr=.5",
    "--model.lr=1",
    "--model.compile=yes",
    "--data.device_cache=false",
    "--data.resize=null",
    "--data.batch_size=0x20",
    "--data.root=5",
    "--data.mean=[0.5, 0.5, 0.5]",
    "--data.std=[1, 1, 1]",
    "--model.arch_options={}",
    "--trainer.precision=32",
    "--trainer.max_epochs=-1",
    "--trainer.devices=auto",
    "--trainer.limit_train_batches=0.5",
    "--trainer.callbacks=EarlyStopping",
    "--trainer.callbacks.monitor=val/loss",
    "--trainer.callbacks+=Timer",
    "--trainer.logger=false",
    "--trainer={min_epochs: 1}",
]


@pytest.mark.parametrize("word", WRONG)
def test_it_refuses_as_the_parser_does(word: str) -> None:
    messages = []
    for refuse in (lambda: check_words("fit", [word]), lambda: parse(["--data.dataset=synthetic", word])):
        with pytest.raises(UsageError) as error:
            refuse()
        messages.append(str(error.value))
    early, late = messages
    assert early == late or early == late.replace(".0;", ";")


@pytest.mark.filterwarnings("ignore")
def test_it_accepts_what_the_parser_accepts() -> None:
    check_words("fit", RIGHT)
    parse(["--data.dataset=synthetic", *RIGHT])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fit", ["--trainer.callbacks.help", "EarlyStopping"]),
        ("fit", ["--model", "model.yaml", "--print_config=skip_default"]),
        ("fit", ["--trainer.an_option_of_a_later_release", "3"]),
        ("test", ["--corruptions", "--model.tta", "flip"]),
        ("predict", ["cat.jpg", "--explain", "dog.jpg", "--top_k", "2"]),
        ("sweep", ["--trials", "3", "--trainer.max_epochs", "4", "--seed_everything", "1"]),
        ("bench", ["--batches", "5", "--profile", "--model.lr", "0.1"]),
    ],
)
def test_what_each_command_takes(command: str, words: list[str]) -> None:
    check_words(command, words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"lrr": 1}}, "unknown option model.lrr. Did you mean model.lr"),
        ({"model": None}, "model is empty; it must map option names to values"),
        ({"modl": {"lr": 1}}, "unknown option modl."),
        ({"model": {"lr": "abc"}}, "model.lr is abc; it must be a number."),
        ({"model": {"lr": -1}}, "model.lr is -1; it must be above 0."),
        ({"data": {"flip": True}}, "data.flip is true; it must be one of none, random, alternating."),
        ({"runs": 0.5}, "runs is 0.5; it must be a whole number."),
    ],
)
def test_a_config(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        check_config("fit", content)
    assert message in str(error.value)


def test_an_option_that_is_called_mean_as_the_question_is() -> None:
    message = str(unknown_option("emeans", ["section.means", "section.mean", "section.eans"]))
    assert message == "unknown option emeans. Did you mean section.means or section.mean or section.eans?"
    assert str(unknown_option("gpus", ["trainer.accelerator", "trainer.devices", "data.mean"])) == (
        "unknown option gpus. Did you mean trainer.accelerator and trainer.devices?"
    )


def test_a_config_that_is_right() -> None:
    check_config("fit", {"seed_everything": 3, "model": {"lr": 1e-3, "arch_options": {"depth": 10}}, "trainer": {}})
    check_config("fit", {"model": {"lr": "1e-3"}, "trainer": {"callbacks": [{"class_path": "Timer"}], "devices": None}})
