"""The plain parser: its errors are UsageErrors that name the ways out."""

import argparse

import pytest

from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.errors import UsageError


def make_parser(**settings: str) -> ArgumentParser:
    parser = ArgumentParser("serve", **settings)
    parser.add_argument("images", nargs="*")
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=8000)
    return parser


def message_for(*words: str, parser: ArgumentParser | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        (parser or make_parser()).parse_args(words)
    return str(caught.value)


def test_options_are_parsed() -> None:
    options = make_parser().parse_args(["--model", "best.ckpt", "--port=80", "cat.jpg"])
    assert options == argparse.Namespace(model="best.ckpt", port=80, images=["cat.jpg"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prot", "1"], "unknown option --prot. Did you mean --port? See cifar-lightning serve --help."),
        (["--prot=1"], "unknown option --prot. Did you mean --port? See cifar-lightning serve --help."),
        (["--por", "1"], "unknown option --por. Did you mean --port? See cifar-lightning serve --help."),
        (["--prot", "1", "--zzz"], "unknown option --prot. Did you mean --port? See cifar-lightning serve --help."),
        (["-x"], "unknown option -x. See cifar-lightning serve --help."),
        (["--zzz"], "unknown option --zzz. See cifar-lightning serve --help."),
        (["a", "--port", "1", "b"], "unexpected argument: b. See cifar-lightning serve --help."),
        (["--port", "x"], "--port: invalid int value: 'x'. See cifar-lightning serve --help."),
        (["--port"], "--port: expected one argument. See cifar-lightning serve --help."),
    ],
)
def test_mistakes_are_usage_errors(words: list[str], message: str) -> None:
    assert message_for("--model", "best.ckpt", *words) == message


def test_a_required_option_is_named() -> None:
    assert message_for() == "the following arguments are required: --model. See cifar-lightning serve --help."


def test_a_parser_can_have_its_own_hint() -> None:
    assert message_for("--model=m", "--zzz", parser=make_parser(hint="It takes images.")) == (
        "unknown option --zzz. It takes images."
    )


@pytest.mark.parametrize("place", ["description", "epilog"])
def test_lines_of_a_description_stay_as_they_are(place: str) -> None:
    assert "One line.\n  an example\n" in make_parser(**{place: "One line.\n  an example"}).format_help()
    wrapped = make_parser(**{place: "word " * 30}).format_help()
    assert max(map(len, wrapped.splitlines())) <= 80


def test_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: cifar-lightning serve ")
