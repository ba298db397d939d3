"""Every command in the README is run, on the built-in images and cut short."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import draw_images
from tests.conftest import FAST, Start
from tests.test_configs import SHRUNK

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


def test_there_are_commands() -> None:
    assert {shlex.split(command)[0] for command in COMMANDS} <= {"make", "cifar-lightning", "tensorboard", "."}
    for command in ("fit", "validate", "test", "predict", "export", "sweep", "serve"):
        assert [command for command in COMMANDS if command.startswith(f"cifar-lightning {command}")]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_knows_the_target(command: str) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


@pytest.fixture
def ready(here: Path, trained: Path, exported: Path) -> None:
    """Makes the current folder one in which the commands have what they need."""
    shutil.copytree(ROOT / "configs", "configs")
    shutil.copytree(ROOT / "docs" / "images", "docs/images")
    shutil.copytree(trained, "runs/demo/version_0")
    shutil.copytree(trained, "runs/cnn/version_0")
    shutil.copy(exported / "model.onnx", "model.onnx")


SLOW = ("--workers 2", "--corruptions")  # tests of sweep and test show the same
RECIPE = r"cifar-lightning fit --config configs/\w+.yaml"  # test_configs.py trains every one of them


@pytest.mark.usefixtures("ready", "official_weights")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=pytest.mark.slow) if c.endswith(SLOW) or re.fullmatch(RECIPE, c) else c
        for c in dict.fromkeys(COMMANDS)
        if re.match("cifar-lightning (?!serve)", c)
    ],
)
def test_command_does_what_it_says(command: str, data_root: Path) -> None:
    Path("my_nets.py").write_text("\n".join(re.findall(r"```python\n# my_nets.py\n(.*?)```", README, re.DOTALL)))
    for image in ("cat.jpg", "holiday/1.png"):
        Path(image).parent.mkdir(exist_ok=True)
        Image.fromarray(draw_images(1, 0, 50)[0][0].numpy()).save(image)
    words = shlex.split(command.replace("postgresql://sweep@host/sweep", "sqlite:///shared.db"))[1:]
    if words[0] == "bench":
        words += ["--batches=2"]
    if words[0] == "sweep":
        words += ["--trials=1"]
    if words[0] in ("fit", "bench", "sweep"):
        words += [
            "--data.dataset=synthetic",
            f"--data.root={data_root}",
            "--data.url=null",
            "--data.image_size=32",
            *FAST,
            *(option for name, options in SHRUNK.items() if f"configs/{name}.yaml" in words for option in options),
        ]
        words += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
        if "--ckpt_path" in words:
            words += ["--trainer.max_epochs=3"]  # it was trained for two
        else:
            words += ["--data.batch_size=8", "--data.eval_batch_size=20", "--data.val_size=20"]
            words += [
                "--trainer.max_epochs=3",
                "--trainer.limit_train_batches=1",
            ]
    if words[0] == "test":
        words += ["--trainer.limit_test_batches=1"]
    assert main(words) == 0


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("cifar-lightning serve")])
def test_serve_starts_and_stops(command: str, start: Start) -> None:
    server = start("-m", "cifar_lightning", *shlex.split(command)[1:], "--port=0")
    assert server.stdout
    while "open http://" not in (line := server.stdout.readline()):
        assert line, server.communicate()
    with urllib.request.urlopen(f"{line.split()[1]}/readyz", timeout=400) as answer:
        assert answer.status == 200
    server.send_signal(signal.SIGINT)
    said = server.communicate(timeout=400)[0]
    assert server.returncode == 0, said


def test_predictor_example_runs(here: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "docs" / "images", "docs/images")
    shutil.copytree(trained, "runs/demo/version_0")
    (code,) = re.findall(r"```python\n(from cifar_lightning import Predictor.*?)```", README, re.DOTALL)
    exec(code, {})
    assert "Guess(label=" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # what Lightning says of loaders without workers
def test_python_example_runs(here: Path, data_root: Path) -> None:
    (code,) = re.findall(r"```python\n(from lightning.*?)```", README, re.DOTALL)
    code = code.replace("ImageDataModule(", f"ImageDataModule(root={str(data_root)!r}, ")
    code = code.replace("Trainer(", "Trainer(limit_train_batches=2, logger=False, enable_checkpointing=False, ")
    exec(code, {})


def test_tensorboard_reads_a_run(trained: Path) -> None:
    words = [sys.executable, "-m", "tensorboard.main", "--inspect", "--logdir", str(trained.parent.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "val/acc" in done.stdout


def test_every_file_that_is_named_exists() -> None:
    for name in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (ROOT / name).stat().st_size > 0, name
