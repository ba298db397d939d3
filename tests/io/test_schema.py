"""Files with odd contents: each is refused in a sentence when it is opened, or works."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lightning import Predictor
from cifar_lightning.cli import main
from cifar_lightning.data.sources import open_source
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.pipeline import load_pipeline
from cifar_lightning.io.schema import TEXT, check, mapping, nullable, number, optional, several, whole
from cifar_lightning.training.checkpoint import Checkpoint
from tests.serving.client import CARD, write_colours

GONE = object()

MODEL: dict[str, tuple[Any, ...]] = {
    "state_dict": (GONE, None, [], {1: torch.ones(1)}, {"x": None}),
    "state_dict/net.0.weight": (
        GONE, None, torch.ones(3), torch.full((32, 3, 3, 3), torch.nan), torch.zeros(32, 3, 3, 3).to_sparse(),
        torch.zeros(32, 3, 3, 3, device="meta"),
    ),
    "hyper_parameters": (GONE, None, 7, {1: 2}),
    "hyper_parameters/arch": (GONE, None, 7, "", "nothing", [1]),
    "hyper_parameters/arch_options": ("x", 7, ["a", "a"], {"depth": 1}),
    "hyper_parameters/num_classes": (None, 7, "x", 10**30, -1),
    "hyper_parameters/tta": (None, 7, "x"),
    "hyper_parameters/nothing": (None, 7),
    "datamodule_hyper_parameters": (GONE, None, [1]),
    "datamodule_hyper_parameters/dataset": (GONE, None, 7, "\ud800"),
    "datamodule_hyper_parameters/image_size": (GONE, None, "32", 32.0, True, 0, -1, 60_000, 2**70),
    "datamodule_hyper_parameters/resize": ("32", -1, 60_000),
    "ImageDataModule": (GONE, None, "x"),
    "ImageDataModule/classes": (GONE, None, 7, "abcdefghij", [], ["a"], ["a"] * 10, list(range(10)), [["a"]] * 10),
    "ImageDataModule/mean": (GONE, None, 7, [], [0, 0], ["0"] * 3, [torch.nan] * 3, [10**400] * 3, torch.zeros(3)),
    "ImageDataModule/std": (GONE, None, 7, [], [1, 1], [0, 0, 0], [-1] * 3, [torch.inf] * 3, [1e-320] * 3, [True] * 3),
    "pytorch-lightning_version": (GONE, None, 7, "x"),
    "loops": (None, 7, {}, {"predict_loop": {}}),
    "loops/predict_loop": (GONE, 7, {"state_dict": 7}),
    "callbacks": (None, [], 7),
    "trainer_settings": (None, [], 7, "x"),
    "trainer_settings/callbacks": (7, [7]),
    "partial_epoch": ([], {"x": "y"}, {"loss": 1.0}, {"loss": 1.0, "images": 10**12, "correct": 1}),
}  # fmt: skip
"""What each value of a checkpoint may be instead, none of which is right."""

_CURRENT = "loops/fit_loop/epoch_loop.batch_progress/current/ready"
TRAINING: dict[str, tuple[Any, ...]] = {
    "epoch": (GONE, None, -1, "x"),
    "global_step": (GONE, None, -1, 10**30),
    "optimizer_states": (GONE, None, 7, [], [1], {"a": 1}, [{}, {}]),
    "lr_schedulers": (GONE, None, "x", [None], [{}], [{"last_epoch": 1}]),
    "loops": (GONE, None, [], {}, {"fit_loop": None}),
    "loops/fit_loop/epoch_progress": (GONE, None, {}),
    "loops/fit_loop/epoch_loop.automatic_optimization.optim_progress": (GONE, {"optimizer": None}),
    _CURRENT: (GONE, None, -1, "x", 1.5),
}
"""The same, of what is needed to resume a training."""

STATE: dict[str, tuple[Any, ...]] = {
    "optimizer_states": ([{}], [{"state": {}, "param_groups": []}]),
    "optimizer_states/0/state/0/exp_avg": (GONE, None, "x", torch.ones(2), torch.ones(32, 3, 3, 3).long()),
    "optimizer_states/0/param_groups/0/lr": (GONE, "x", torch.nan),
    "optimizer_states/0/param_groups/0/amsgrad": (None,),
    "optimizer_states/0/param_groups/0/betas": (None, (0.9,), ("x", "y")),
    "loops/fit_loop/epoch_loop.val_loop.batch_progress": ({"total": 7},),
}
"""The same, which only shows when the optimizer and the loops are restored."""


def each(odd: dict[str, tuple[Any, ...]]) -> pytest.MarkDecorator:
    cases = [(path, value) for path, values in odd.items() for value in values]
    names = [f"{path} {'gone' if value is GONE else str(value)[:20]}".replace("\ud800", "?") for path, value in cases]
    return pytest.mark.parametrize(("path", "value"), cases, ids=names)


@pytest.fixture(scope="module")
def whole_checkpoint(trained: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(trained / "last.ckpt", weights_only=True)
    return checkpoint


@pytest.fixture
def change(whole_checkpoint: dict[str, Any], here: Path) -> Callable[[str, Any], Path]:
    """Writes a checkpoint with one value changed."""

    def write(path: str, value: Any) -> Path:
        *heads, last = path.split("/")
        changed = deepcopy(whole_checkpoint)
        inside: Any = changed
        for name in heads:
            inside = inside[int(name) if name.isdigit() else name]
        if value is GONE:
            del inside[last]
        else:
            inside[last] = value
        torch.save(changed, "odd.ckpt")
        return Path("odd.ckpt")

    return write


@each(MODEL)
def test_a_checkpoint_of_an_odd_model(path: str, value: Any, change: Any) -> None:
    with pytest.raises(UsageError):
        Predictor(change(path, value), device="cpu")


@each(TRAINING)
def test_a_checkpoint_of_an_odd_training(path: str, value: Any, change: Any) -> None:
    with pytest.raises(UsageError, match=path.partition("/")[0]):
        Checkpoint.read(change(path, value), resume=True)


@each(STATE)
def test_a_state_that_does_not_fit_is_not_resumed(
    path: str, value: Any, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_epochs=3", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    assert main(["fit", f"--ckpt_path={change(path, value)}", *words]) == 2
    assert "odd.ckpt can't be resumed" in capsys.readouterr().err


def test_every_output_has_a_class(change: Any, capsys: pytest.CaptureFixture[str]) -> None:
    odd = change("ImageDataModule/classes", ["a", "b"])
    for words in (["predict", "x.png"], ["test"], ["fit"]):
        assert main([*words, f"--ckpt_path={odd}"]) == 2
        assert "it names 2 classes, but model.num_classes is 10" in capsys.readouterr().err


def test_weights_alone_are_enough_to_predict(whole_checkpoint: dict[str, Any], here: Path) -> None:
    left_out = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "trainer_settings", "changes")
    torch.save({k: v for k, v in whole_checkpoint.items() if k not in left_out}, "weights.ckpt")
    assert Predictor("weights.ckpt", device="cpu").card.arch == "cnn"
    with pytest.raises(UsageError, match="holds the network, but not the state of its training"):
        Checkpoint.read(Path("weights.ckpt"), resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", None), ("arch", 7), ("classes", None), ("classes", "rgb"), ("classes", ["a", "b"]), ("classes", []),
        ("classes", ["a", "a", "b"]), ("classes", [1, 2, 3]), ("dataset", []), ("image_size", "32"),
        ("image_size", 60_000), ("image_size", 33), ("image_size", -1), ("image_size", 1e400), ("mean", None),
        ("mean", [0, 0]), ("mean", [float("nan")] * 3), ("std", ["1"] * 3), ("std", [0, 0, 0]), ("test_accuracy", "x"),
        ("test_accuracy", 77), ("test_accuracy", float("nan")), ("checkpoint_sha256", None), ("versions", ["x"]),
        ("versions", {"torch": 2}),
    ],
)  # fmt: skip
def test_an_exported_file_that_says_odd_things(name: str, value: Any, here: Path) -> None:
    write_colours(Path("odd.onnx"), CARD.to_metadata() | {name: json.dumps(value)})
    with pytest.raises(UsageError, match=r"odd\.onnx can't be used"):
        Predictor("odd.onnx", device="cpu")


@pytest.mark.parametrize("metadata", [{}, {"arch": "["}, CARD.to_metadata() | {"classes": "[" * 100_000}])
def test_an_exported_file_that_does_not_say_what_it_is(metadata: dict[str, str], here: Path) -> None:
    write_colours(Path("odd.onnx"), metadata)
    with pytest.raises(UsageError, match="cifar-lightning export did not write it"):
        Predictor("odd.onnx", device="cpu")


@pytest.mark.parametrize(
    "odd",
    [{"keepdims": 1}, {"axes": [1, 3]}, {"batch": 1}, {"output": "scores"}, {"scale": float("nan")}],
    ids=str,
)
def test_an_exported_file_that_computes_odd_things(
    odd: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colours(Path("odd.onnx"), **odd)
    assert main(["serve", "--model=odd.onnx", "--device=cpu", "--port=0"]) == 2
    assert "odd.onnx can't be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "odd", [[], 7, "[", {}, {"model": []}, {"accuracy": "x"}, {"accuracy": 7}, {"images": "x"}, {"of": []}], ids=str
)
def test_an_odd_record_is_no_accuracy(odd: Any, trained: Path, here: Path) -> None:
    (here / "best.ckpt").write_bytes((trained / "best.ckpt").read_bytes())
    right = {"model": {"tta": "none"}, "accuracy": 0.5, "images": 7, "of": 7}
    right["checkpoint_sha256"] = load_pipeline(Path("best.ckpt"))[1].checkpoint_sha256
    (here / "test.json").write_text(json.dumps(right))
    assert load_pipeline(Path("best.ckpt"))[1].test_accuracy == 0.5
    (here / "test.json").write_text(
        odd if odd == "[" else json.dumps(right | odd if isinstance(odd, dict) and odd else odd)
    )
    assert load_pipeline(Path("best.ckpt"))[1].test_accuracy is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", GONE), ("images", GONE), ("images", None), ("images", torch.zeros(60, 8, 8, 3)),
        ("images", torch.zeros(60, 9, 9, 3, dtype=torch.uint8)), ("images", torch.zeros(60, 3, dtype=torch.uint8)),
        ("labels", [0] * 60), ("labels", torch.zeros(7, dtype=torch.int64)), ("labels", torch.full((60,), 3)),
        ("labels", torch.full((60,), -1)), ("digest", 7), ("broken", 7), ("broken", [7]), ("nothing", 7),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_an_odd_cache_is_made_anew(
    name: str, value: Any, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source("folder", str(image_folder), None, 8)
    expected = source.load("train")
    (cache,) = image_folder.with_name(f"{image_folder.name}.cache").glob("train-8*.pt")
    held = torch.load(cache, weights_only=True) | {name: value}
    torch.save({key: kept for key, kept in held.items() if kept is not GONE}, cache)
    again = source.load("train")
    assert "is broken and is rebuilt" in capsys.readouterr().out
    assert torch.equal(again.images, expected.images)
    assert torch.equal(again.labels, expected.labels)
    assert again.digest == expected.digest


def test_null_for_an_option_that_needs_a_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for config in ("data: {batch_size: null}", "model: {lr: null}"):
        Path("null.yaml").write_text(config)
        assert main(["fit", "--config=null.yaml", "--data.dataset=synthetic"]) == 2
        assert "is null; it needs a value" in capsys.readouterr().err


def test_what_is_missing_and_what_is_wrong_is_named() -> None:
    kinds = {"a": whole(1, 3), "b/c": TEXT, "d": nullable(several(number(0, 1))), "e": mapping(TEXT)}
    assert check({"a": 1, "b": {"c": "x"}, "d": None, "e": {}}, kinds | {"f": optional(TEXT)}) == ([], [])
    missing, wrong = check({"a": True, "b": 7, "d": [2.0], "e": {"x": None}}, kinds)
    assert missing == ["b.c"]
    assert wrong == [
        "a is True; it must be a whole number from 1 to 3",
        "d is [2.0]; it must be a list, each item a number from 0 to 1, or null",
        "e is {'x': None}; it must be a mapping, each value a string",
    ]
    assert check(None, {"a": TEXT}) == (["a"], [])
