"""What several tests need: images, archives and a trained run."""

import hashlib
import io
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, settings
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_lightning.cli import main
from cifar_lightning.io.files import hash_file
from cifar_lightning.reporting import figures, run_figures, run_reporter

# each of the processes that run the tests gets its share of the cores, and so do those that it starts
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# what a shell starts in the background ignores Ctrl+C, and a hangup under nohup; what tests start would, too
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # not on Windows
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("short", derandomize=True, deadline=None, database=None, max_examples=16)
settings.register_profile("more", derandomize=True, deadline=None, database=None, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=3000, suppress_health_check=list(HealthCheck))
settings.load_profile("short")

ROOT = Path(__file__).parent.parent
"""The folder of the project."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests that only POSIX systems can run; the marker says why."""
    marker = item.get_closest_marker("posix")
    if marker and os.name != "posix":
        pytest.skip(marker.args[0])


FAST = [
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--data.batch_size=32",
    "--data.eval_batch_size=100",
    "--data.val_size=100",
]
"""With these options, any recipe takes about a second."""

TINY = [*FAST[1:], "--data.dataset=synthetic", "--trainer.enable_progress_bar=false"]
"""The same on synthetic images, without a length: each epoch has 4 steps."""

RUN = Path("runs/cnn/version_0")
"""The folder of the first run of ``fit`` without a config."""


WITHOUT_TORCH = """
import sys, importlib.abc

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

BLOCKED = {"torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning", "lightning_utilities", "rich",
           "matplotlib", "jsonargparse", "yaml", "tensorboard", "onnx", "onnxscript"}
sys.meta_path.insert(0, Block())
"""
"""Begins a script that can import no more than onnxruntime, numpy, pillow and what the server needs."""


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the synthetic images are drawn once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training of the demo recipe with Adam, cut short; not to be written to."""
    config = ROOT / "configs" / "demo.yaml"
    adam = [
        "--model.optimizer=adam", "--model.muon_linear=false", "--model.lr=3e-3", "--model.weight_decay=0",
        "--model.schedule=onecycle", "--model.warmup=0.3",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        assert main(["fit", f"--config={config}", f"--data.root={data_root}", *adam, *FAST]) == 0
        return (Path("runs") / "demo" / "version_0").absolute()


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx and model.pt2 of the trained run's best checkpoint; not to be written to."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("model.onnx", "model.pt2"):
        assert main(["export", f"--ckpt_path={trained / 'best.ckpt'}", f"--output={folder / name}"]) == 0
    return folder


def replace_network(checkpoint: Path, arch: str, network: torch.nn.Module, target: Path) -> Path:
    """Copy a checkpoint with another network's name and weights."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["arch"] = arch
    content["state_dict"] = {f"net.{name}": value for name, value in network.state_dict().items()}
    torch.save(content, target)
    return target


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of MobileNetV2 for 1,000 classes, untrained, named by their checksum as torchvision's are."""
    made = tmp_path_factory.mktemp("mirror") / "made.pth"
    network = torchvision.models.mobilenet_v2()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: features then differ between images
    with torch.no_grad():
        network(torch.randn(16, 3, 64, 64))
    torch.save(network.state_dict(), made)
    return made.rename(made.with_name(f"mobilenet_v2-{hash_file(made)[:8]}.pth"))


@pytest.fixture
def official_weights(weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes torchvision believe in ``weights_file``, and returns where it is kept once it is downloaded."""
    official = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(official, "url", weights_file.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints" / weights_file.name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fit(data_root: Path) -> list[str]:
    """The words of a tiny training that lack its length."""
    return ["fit", f"--data.root={data_root}", *TINY]


@pytest.fixture
def run(trained: Path, here: Path) -> Path:
    """A copy of the trained run in the current folder, to be written to."""
    folder = Path("runs") / "demo" / "version_0"
    shutil.copytree(trained, folder)
    return folder


Refusal = Callable[..., str]


@pytest.fixture
def refusal(here: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Gives a command words that it must refuse in one message, and returns that; no run may be left behind."""

    def refuse(*words: str) -> str:
        assert main(words) == 2
        message = capsys.readouterr().err
        assert message.startswith("cifar-lightning: ")
        assert not list(Path().glob("runs/*"))
        return message

    return refuse


def events(folder: Path) -> EventAccumulator:
    """Read everything that a run has logged to TensorBoard."""
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python with some words and settings of the environment; it and what it starts do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **settings}, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        else:
            with suppress(ProcessLookupError):  # the group, which outlives its first process, has ended too
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A small data set of the user's own: three classes, plain colours with noise, 20 + 5 images each."""
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for split, count in [("train", 20), ("test", 5)]:
        for number, name in enumerate(["blue", "green", "red"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (40, 48, 3), dtype=np.uint8)
                pixels[..., 2 - number] += 150
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return root


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the official archives."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes) -> None:
        head = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
        self.write(head + value)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[bytes] = save_string


def _pickled(content: dict[bytes, Any]) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


@dataclass
class Archive:
    """A tiny CIFAR-10 archive, and torchvision patched to accept it."""

    path: Path
    images: np.ndarray[Any, Any]
    labels: list[int]
    expect: Callable[[Path], None]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """CIFAR-10 in the official format with 20 images a batch; its checksums are made the official ones."""
    rng = np.random.default_rng(0)
    cifar = torchvision.datasets.CIFAR10
    images = rng.integers(0, 256, (120, 3072), dtype=np.uint8)
    labels = [i % 10 for i in range(120)]
    names = [name for name, _ in cifar.train_list + cifar.test_list]
    files = {
        name: _pickled({b"data": images[20 * i : 20 * i + 20], b"labels": labels[20 * i : 20 * i + 20]})
        for i, name in enumerate(names)
    }
    classes = b"airplane automobile bird cat deer dog frog horse ship truck".split()
    files["batches.meta"] = _pickled({b"label_names": classes})
    path = tmp_path / "mirror" / cifar.filename
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(cifar, "train_list", [[n, sums[n]] for n in names[:5]])
    monkeypatch.setattr(cifar, "test_list", [[n, sums[n]] for n in names[5:]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})

    def expect(official: Path) -> None:
        monkeypatch.setattr(cifar, "url", official.as_uri())
        monkeypatch.setattr(cifar, "tgz_md5", hashlib.md5(official.read_bytes()).hexdigest())

    expect(path)
    return Archive(path, images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, expect)


@pytest.fixture(autouse=True)
def _two_threads_at_most() -> None:
    torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))))


BLANK = SimpleNamespace(**vars(figures))
for _name, _value in vars(figures).items():
    if getattr(_value, "__annotations__", {}).get("return") is figures.Figure:
        setattr(BLANK, _name, lambda *_, **__: figures.Figure(figsize=(1, 1)))


@pytest.fixture(autouse=True)
def _blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Spares most of the time of a short training: its figures are blank, unless a test is marked ``rendered``."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("rendered"):
            for module in (run_figures, run_reporter):
                patch.setattr(module, "figures", BLANK)
        yield
