"""Files are loaded as data: none that tries to import a module or to run code can do so, in any command."""

import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from cifar_lightning import Predictor, create_model, evaluate
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.serving.app import WEB
from tests.conftest import FAST, replace_network

PAYLOAD = """
from pathlib import Path
from torch import nn
Path("executed").touch()

class Net(nn.Flatten):
    def __init__(self, **options):
        Path("executed").touch()
        super().__init__()

def build(*args, **options):
    Path("executed").touch()
"""


class Reduced:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


SPEC = {"class_path": "payload.Net", "init_args": {}}

FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "arch": lambda c: c["hyper_parameters"].update(arch="payload:Net"),
    "metrics": lambda c: c["hyper_parameters"].update(metrics=["payload:Net"]),
    "metrics as text": lambda c: c["hyper_parameters"].update(metrics="[payload:Net]"),
    "metrics as an item": lambda c: c["hyper_parameters"].update(metrics="- payload:Net"),
    "metrics as a word": lambda c: c["hyper_parameters"].update(metrics="payload:Net"),
    "metrics as a tuple": lambda c: c["hyper_parameters"].update(metrics=("payload:Net",)),
    "metrics, appended": lambda c: c["hyper_parameters"].update({"metrics+": ["payload:Net"]}),
    "loss": lambda c: c["hyper_parameters"].update(loss="payload:Net"),
    "loss in a list": lambda c: c["hyper_parameters"].update(loss=["payload:Net"]),
    "data set": lambda c: c["datamodule_hyper_parameters"].update(dataset="payload:Net"),
    "data set in a list": lambda c: c["datamodule_hyper_parameters"].update(dataset=["payload:Net"]),
    "augmentation": lambda c: c["datamodule_hyper_parameters"].update(augmentation="payload:Net"),
    "augmentation in a list": lambda c: c["datamodule_hyper_parameters"].update(augmentation=["payload:Net"]),
    "arch as a class": lambda c: c["hyper_parameters"].update(arch=SPEC),
    "arch_options": lambda c: c["hyper_parameters"].update(arch_options={"x": SPEC}),
    "arch_options as text": lambda c: c["hyper_parameters"].update(arch_options={"x": "{class_path: payload.Net}"}),
    "arch_options in a list": lambda c: c["hyper_parameters"].update(arch_options={"x": [[SPEC]], "y": {"z": SPEC}}),
    "arch_options as a class": lambda c: c["hyper_parameters"].update(arch_options=SPEC),
    "a rate": lambda c: c["hyper_parameters"].update(lr=SPEC),
    "_class_path": lambda c: c["hyper_parameters"].update(_class_path="payload.Net"),
    "_instantiator": lambda c: c["hyper_parameters"].update(_instantiator="payload.build"),
    "the model's settings": lambda c: c.update(hyper_parameters=SPEC),
    "the data's _class_path": lambda c: c["datamodule_hyper_parameters"].update(_class_path="payload.Net"),
    "the data's _instantiator": lambda c: c["datamodule_hyper_parameters"].update(_instantiator="payload.build"),
    "the data's root": lambda c: c["datamodule_hyper_parameters"].update(root=SPEC),
    "the data's settings": lambda c: c.update(datamodule_hyper_parameters=SPEC),
    "the data's state": lambda c: c.update(ImageDataModule=SPEC),
    "the seed": lambda c: c["datamodule_hyper_parameters"].update(seed=SPEC),
    "the strategy": lambda c: c["trainer_settings"].update(strategy=SPEC),
    "the strategy's name": lambda c: c["trainer_settings"].update(strategy="payload.Net"),
    "the strategy as text": lambda c: c["trainer_settings"].update(strategy="{class_path: payload.Net}"),
    "other Trainer settings": lambda c: c["trainer_settings"].update(
        logger=SPEC, profiler="payload.Net", plugins=[SPEC], accelerator="payload.Net", precision="payload.Net"
    ),
    "callbacks": lambda c: c["trainer_settings"].update(callbacks=[SPEC]),
    "callbacks by name": lambda c: c["trainer_settings"].update(callbacks=["payload.Net"]),
    "the Trainer's settings": lambda c: c.update(trainer_settings=SPEC),
    "callback states": lambda c: c["callbacks"].update({"payload.Net": SPEC}),
    "the weights": lambda c: c["state_dict"].update(x=Reduced()),
    "a setting, pickled": lambda c: c["hyper_parameters"].update(arch=Reduced()),
    "callback states, pickled": lambda c: c["callbacks"].update(x=Reduced()),
}


@pytest.fixture
def hostile(here: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a checkpoint of one of the forms, beside a module that creates a file when it is imported."""
    (here / "payload.py").write_text(PAYLOAD)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "payload", raising=False)

    def write(form: str) -> str:
        checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
        FORMS[form](checkpoint)
        torch.save(checkpoint, "hostile.ckpt")
        return "hostile.ckpt"

    return write


def nothing_ran() -> bool:
    return not Path("executed").exists() and "payload" not in sys.modules


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_runs_nothing(form: str, hostile: Any) -> None:
    path = hostile(form)
    words = ["--trainer.max_epochs=3", "--trainer.fast_dev_run=true"]
    assert main(["fit", f"--ckpt_path={path}", *words]) in (0, 2)
    assert nothing_ran()
    with suppress(UsageError):
        Predictor(path)
    assert nothing_ran()


CODE = ["arch", "arch_options", "arch_options as text", "the weights"]
MALFORMED = ["metrics as text", "metrics as an item", "metrics as a word", "metrics as a tuple", "loss in a list",
             "data set in a list", "augmentation in a list"]  # fmt: skip
NOT_FOR_PREDICTIONS = ["metrics", "metrics, appended", "data set"]
ONLY_FOR_TRAINING = ["loss", "augmentation"]


@pytest.mark.parametrize("form", [*CODE, *MALFORMED, *NOT_FOR_PREDICTIONS, *ONLY_FOR_TRAINING])
def test_code_is_rejected_by_every_command(form: str, hostile: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Also by commands that would not use it, if it is of a form that ``fit`` does not write."""
    path = hostile(form)
    using = ["fit", "bench"]
    using += [] if form in ONLY_FOR_TRAINING else ["validate", "test"]
    using += ["predict x.png", "export", "serve"] if form in (*CODE, *MALFORMED) else []
    for command in using:
        option = "--model" if command == "serve" else "--ckpt_path"
        assert main([*command.split(), f"{option}={path}"]) == 2, command
        assert capsys.readouterr().err.startswith("cifar-lightning: ")
        assert nothing_ran(), command
    for split in ("test", "val") if "test" in using else ():
        with pytest.raises(UsageError):
            evaluate(path, split)
    with suppress(UsageError):
        Predictor(path)
    assert nothing_ran()


@pytest.mark.parametrize(
    ("form", "word"),
    [("metrics", "--model.metrics=null"), ("loss", "--model.loss=cross_entropy")],
)
def test_the_default_may_take_the_place_of_code(form: str, word: str, hostile: Any) -> None:
    words = ["--trainer.max_epochs=3", "--trainer.fast_dev_run=true"]
    assert main(["fit", f"--ckpt_path={hostile(form)}", *words]) == 2
    assert main(["fit", "--ckpt_path=hostile.ckpt", *words, word]) == 0
    assert nothing_ran()


OWN = """
from pathlib import Path
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        Path("executed").touch()
        super().__init__(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, num_classes))
"""


@pytest.fixture
def own(here: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint of the user's own network in the current folder, which creates a file when it is built."""
    (here / "own_code.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))
    network = create_model("own_code:Net", 10)
    (here / "executed").unlink()
    return str(replace_network(trained / "best.ckpt", "own_code:Net", network, here / "own.ckpt"))


def test_the_code_of_a_network_runs_only_if_it_is_allowed(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("model: {arch: own_code:Net}")
    Path("other.yaml").write_text("model: {lr: 0.1}")
    image = str(WEB / "examples" / "cat.jpg")
    for words in (["--model.arch=cnn"], ["--model.arch=own_code:Other"]):
        assert main(["predict", image, f"--ckpt_path={own}", *words]) == 2
        assert "model.arch" in capsys.readouterr().err
        assert not Path("executed").exists()
    for words in ([], ["--config=other.yaml"]):
        assert main(["predict", image, f"--ckpt_path={own}", *words]) == 2
        error = capsys.readouterr().err
        assert "is own_code:Net: loading it would import the module own_code and run its code" in error
        assert "--model.arch own_code:Net" in error
        assert "--allow_custom_code" in error
        assert not Path("executed").exists()
    for words in (
        ["--model.arch", "own_code:Net"],
        ["--config=own.yaml"],
        ["--allow_custom_code"],
        ["--allow_custom_arch"],
    ):
        assert main(["predict", image, f"--ckpt_path={own}", *words]) == 0
        Path("executed").unlink()
    assert main(["export", f"--ckpt_path={own}", "--format=pt2", "--allow_custom_code"]) == 0
    for allowed in ({"arch": "own_code:Net"}, {"allow_custom_code": True}, {"allow_custom_arch": True}):
        assert Predictor(own, **allowed).card.arch == "own_code:Net"
    Path("allow.yaml").write_text("allow_custom_arch: true")  # its older name
    assert main(["predict", image, f"--ckpt_path={own}", "--config=allow.yaml"]) == 2
    assert "allowed only on the command line: --allow_custom_code" in capsys.readouterr().err


@pytest.mark.usefixtures("own")
def test_the_permission_is_not_stored_in_the_run(here: Path, data_root: Path) -> None:
    words = ["--model.arch=own_code:Net", "--data.dataset=synthetic", f"--data.root={data_root}"]
    assert main(["fit", *words, *FAST, "--trainer.max_epochs=1"]) == 0
    (last,) = here.glob("runs/*/version_0/last.ckpt")
    assert main(["fit", f"--ckpt_path={last}", "--allow_custom_code", "--trainer.max_epochs=2"]) == 0
    assert "allow" not in last.with_name("config.yaml").read_text()


@pytest.mark.parametrize("command", ["fit", "test", "export"])
def test_other_kinds_of_files(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def torchscript(file: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated.
            torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)

    kinds: list[Callable[[str], object]] = [
        lambda file: Path(file).write_bytes(pickle.dumps(Reduced())),
        lambda file: Path(file).write_bytes(pickle.dumps({"state_dict": Reduced()}, protocol=0)),
        lambda file: torch.save({"state_dict": Reduced()}, file, _use_new_zipfile_serialization=False),
        torchscript,
    ]
    for write in kinds:
        write("other.ckpt")
        assert main([command, "--ckpt_path=other.ckpt"]) == 2
        assert "other.ckpt" in capsys.readouterr().err
        assert nothing_ran()


def test_weights_are_data(here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": Reduced()}, "weights.pth")
    words = ["--model.arch=cnn", "--model.weights=weights.pth", "--data.dataset=synthetic"]
    assert main(["fit", *words, f"--data.root={data_root}", *FAST]) == 2
    assert "can't be loaded as weights" in capsys.readouterr().err
    assert nothing_ran()


def test_a_pt2_file_is_a_program(exported: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as source, zipfile.ZipFile("hostile.pt2", "w") as copy:
        for name in source.namelist():
            hostile = name.endswith("sample_inputs/model.pt")
            copy.writestr(name, pickle.dumps(Reduced()) if hostile else source.read(name))
    image = str(WEB / "examples" / "cat.jpg")
    for command in (["predict", image, "--ckpt_path=hostile.pt2"], ["serve", "--model=hostile.pt2"]):
        assert main(command) == 2
        assert "hostile.pt2 is a program" in capsys.readouterr().err
    with pytest.raises(UsageError, match="allow_custom_code=True"):
        Predictor("hostile.pt2")
    assert nothing_ran()
    with suppress(UsageError):
        Predictor("hostile.pt2", allow_custom_code=True)
    assert not nothing_ran(), "this is why it is rejected"


@pytest.mark.parametrize("place", ["../secret.bin", "{root}/secret.bin", "link.bin"])
@pytest.mark.posix("links need rights on Windows")
def test_an_onnx_file_reads_nothing_outside_its_folder(place: str, exported: Path, here: Path) -> None:
    (here / "models").mkdir()
    model = onnx.load(exported / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (here / "secret.bin").write_bytes(weights.raw_data)
    (here / "models" / "link.bin").symlink_to("../secret.bin")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=place.format(root=here))
    Path("models/hostile.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="can't be read as ONNX"):
        Predictor("models/hostile.onnx", device="cpu")
