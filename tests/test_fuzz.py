"""Whatever is written on the command line or in a config, and whatever a file holds: a message, never a traceback.

In ``make test`` the same few examples every time, more in ``make test-all``; thousands of new ones, counted, with
``pytest tests/test_fuzz.py --hypothesis-profile=long --hypothesis-show-statistics``.
"""

import contextlib
import inspect
import io
import os
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from PIL import Image

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.cli import main
from cifar_lightning.commands import COMMANDS
from cifar_lightning.data.sources import open_source
from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.transforms.decode import SUFFIXES, ImageError, decode_image

FEWER = settings(max_examples=settings().max_examples // 4)
"""For what takes a good part of a second."""

pytestmark = pytest.mark.filterwarnings("default")  # a warning is no traceback


def attempt(*words: str) -> tuple[int, str, str]:
    """Runs a command; returns its status and what it wrote, and fails for anything but a plain ending."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as end:  # --help and --print_config
            status = int(end.code or 0)
    assert status in (0, 2), err.getvalue()
    if status == 2 and words:
        assert "cifar-lightning: " in err.getvalue(), out.getvalue()
        assert "Traceback" not in err.getvalue()
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty current folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def options(kind: Any, prefix: str) -> list[str]:
    return [
        f"{prefix}.{name}" for name in inspect.signature(kind.__init__).parameters if name not in ("self", "kwargs")
    ]


KNOWN = [*options(ImageClassifier, "model"), *options(ImageDataModule, "data"), *options(Trainer, "trainer")]
SECTIONS = ["seed_everything", "model", "data", "trainer", "optimizer", "ckpt_path", "config", "print_config"]

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
odd = ["0", "1", "-1", "2", "7", "0.5", "1e30", "-1e-9", "nan", "inf", "1e999", "9" * 25, "true", "null", "~", "abc"]
odd += [
    "cnn",
    "adam",
    "none",
    "auto",
    "cpu",
    "torchvision:resnet18",
    "torchvision:",
    "resnet18",
    "x.y",
    "a:b",
    "=",
    ":",
]
odd += ["--", "[]", "{}", "[1,2]", "[0.1,0.2,0.3]", "{a: 1}", "{class_path: os.system}", "&a [*a]", "!!binary x"]
values = st.one_of(
    st.sampled_from(["", *odd]),
    words,
    st.integers().map(str),
    st.floats().map(str),
)
names = st.one_of(st.sampled_from(KNOWN), st.sampled_from(SECTIONS), words)
flags = st.one_of(
    st.builds("--{}={}".format, names, values).map(lambda word: [word]),
    st.builds("--{}".format, names).flatmap(lambda name: values.map(lambda value: [name, value])),
    words.map(lambda word: [word]),
)
lines = st.lists(flags, max_size=4).map(lambda parts: [word for part in parts for word in part])


@given(st.one_of(st.sampled_from(sorted(COMMANDS)), words), lines)
@example("fit", ["--config"])
@example("predict", ["--ckpt_path", ""])
def test_the_command_line(command: str, line: list[str]) -> None:
    last = {"fit": ["--print_config"], "bench": ["--print_config"], "sweep": ["--heartbeat=0"], "serve": ["--port=-1"]}
    with folder():
        attempt(command, *line, *last.get(command, []))


@FEWER
@given(words.filter(bool), st.sampled_from(["--{}=1", "--model.{}=1", "--data.{}=x", "--trainer.{}=2", "{}"]))
def test_no_junk_is_ignored(word: str, form: str) -> None:
    junk = form.format(f"zz{word}")
    with folder():
        assert attempt("fit", junk, "--print_config")[0] == 2
        assert attempt("models", junk)[0] == 2


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.one_of(words, st.integers()), inner, max_size=3),
    max_leaves=6,
)
sections = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(
            plain,
            st.dictionaries(
                st.sampled_from([k.partition(".")[2] for k in KNOWN if k.startswith(name)]), plain, max_size=4
            ),
        )
        for name in ("model", "data", "trainer")
    }
    | {"seed_everything": plain, "ckpt_path": plain},
)
configs = st.one_of(
    st.builds(lambda content: yaml.safe_dump(content, allow_unicode=True), st.one_of(sections, plain)),
    st.text(string.printable, max_size=60),
    st.binary(max_size=40).map(lambda data: data.decode("latin-1")),
)


@FEWER
@given(configs, st.sampled_from(["fit", "bench", "sweep", "models"]))
def test_configs(text: str, command: str) -> None:
    with folder() as here:
        (here / "configs").mkdir()
        Path("configs/any.yaml").write_text(text, encoding="utf-8", newline="")
        last = {"sweep": ["--heartbeat=0"], "models": []}.get(command, ["--print_config"])
        attempt(command, *([] if command == "models" else ["--config", "configs/any.yaml"]), *last)


@FEWER
@given(st.sampled_from(["", "model", "data", "trainer"]), words, plain)
def test_no_junk_in_a_config_is_ignored(section: str, word: str, value: Any) -> None:
    junk = {f"zz{word}": value}
    with folder():
        Path("any.yaml").write_text(yaml.safe_dump({section: junk} if section else junk))
        assert attempt("fit", "--config", "any.yaml", "--print_config")[0] == 2


# -- trainings -------------------------------------------------------------------------------------------------------

SHORT = [
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "limit_val_batches",
    "overfit_batches", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "precision",
    "inference_mode", "reload_dataloaders_every_n_epochs", "enable_checkpointing", "use_distributed_sampler",
]  # fmt: skip
numbers = st.sampled_from(
    ["-1", "0", "1", "2", "3", "8", "0.5", "0.999", "1.0", "1e-8", "1e30", "nan", "inf", "9" * 25]
)
trained = st.one_of(
    st.sampled_from([*options(ImageClassifier, "model"), *options(ImageDataModule, "data")]),
    st.sampled_from([f"trainer.{name}" for name in SHORT]),
).filter(lambda name: name not in ("model.compile", "data.root", "data.dataset", "data.url", "model.weights"))
choices = {
    **dict.fromkeys(
        ["trainer.max_epochs", "trainer.max_steps"], st.sampled_from(["-1", "0", "1", "3", "0.5", "nan", "x"])
    ),
    **dict.fromkeys(
        ["trainer.min_epochs", "trainer.min_steps"], st.sampled_from(["-1", "0", "1", "3", "0.5", "nan", "x"])
    ),
    "model.arch": st.sampled_from(["cnn", "resnet9", "torchvision:squeezenet1_1", "torchvision:nothing", "vit"]),
    "model.optimizer": st.sampled_from(["adam", "adamw", "sgd", "muon"]),
    "model.schedule": st.sampled_from(["constant", "linear", "cosine", "onecycle"]),
    "model.tta": st.sampled_from(["none", "flip", "flip_translate"]),
    "model.freeze": st.sampled_from(["none", "backbone", "all_but_head"]),
    "model.stem": st.sampled_from(["keep", "cifar"]),
    "data.flip": st.sampled_from(["none", "random", "alternating"]),
    "data.auto_augment": st.sampled_from(["none", "randaugment", "trivialaugment"]),
    "data.image_size": st.sampled_from(["-1", "0", "1", "2", "8", "33", "1" + "0" * 9, "9" * 25]),
    "data.resize": st.sampled_from(["-1", "0", "1", "2", "8", "40", "1" + "0" * 9, "9" * 25]),
    "data.mean": st.sampled_from(["[]", "[0.5]", "[0.5, 0.5, 0.5]", "[nan, 0, 0]", "x"]),
    "data.std": st.sampled_from(["[]", "[0.5]", "[0.5, 0.5, 0.5]", "[nan, 1, 1]", "[0, 1, 1]"]),
    "trainer.precision": st.sampled_from(["32-true", "bf16-mixed", "16-mixed", "64-true", "16-true", "8"]),
    "trainer.max_time": st.sampled_from(["00:00:00:00", "x", "1", "{seconds: 0}"]),
}
choice = trained.flatmap(lambda name: choices.get(name, numbers).map(lambda value: f"--{name}={value}"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two classes with eight images each."""
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (9, 8), (i * 20, number * 200, 90)).save(root / split / name / f"{i}.png")
    return root


@FEWER
@given(line=st.lists(choice, min_size=1, max_size=3))
def test_trainings(line: list[str], images: Path) -> None:
    base = ["--data.dataset=folder", f"--data.root={images}", "--data.val_size=4", "--data.batch_size=4"]
    base += [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.accelerator=cpu",
        "--data.translate=0",
    ]
    base += ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    with folder():
        status, _, _ = attempt("fit", *base, *line, *(["--trainer.fast_dev_run=2"] if len(line) > 1 else []))
        assert status == 0 or not list(Path("runs").glob("*/*")), line


# -- files -----------------------------------------------------------------------------------------------------------


def encode(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def whole() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encode(rgb, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF")),
        *(encode(rgb.convert(mode), "PNG") for mode in ("L", "LA", "RGBA", "P", "1")),
        encode(deep, "PNG"),
        encode(rgb.convert("CMYK"), "JPEG"),
        encode(rgb, "JPEG", progressive=True, exif=exif),
        encode(rgb.convert("RGBA"), "WEBP", lossless=True),
        *(encode(rgb, kind, save_all=True, append_images=[rgb.rotate(90)]) for kind in ("GIF", "WEBP", "PNG")),
    ]


WHOLE = whole()
edits = st.lists(st.tuples(st.integers(0, 2000), st.sampled_from("=+-"), st.binary(min_size=1, max_size=6)), max_size=5)


def change(data: bytes, changes: list[tuple[int, str, bytes]], cut: int | None = None) -> bytes:
    """Replaces, inserts and removes bytes, and keeps the first ``cut`` of them."""
    for where, how, new in changes:
        start = where % (len(data) + 1)
        data = data[:start] + (b"" if how == "-" else new) + data[start + (0 if how == "+" else len(new)) :]
    return data[:cut]


broken = st.builds(change, st.sampled_from(WHOLE), edits, st.none() | st.integers(0, 300))


@given(st.one_of(broken, st.binary(max_size=200)))
def test_image_files(data: bytes) -> None:
    try:
        made = decode_image(data, 8, max_pixels=1_000_000)
    except ImageError:
        pass
    else:
        assert made.shape == (8, 8, 3)
        assert made.dtype == np.uint8


entries = st.text(string.ascii_letters + "éß€ .-_$%'&;\\\n\x7f☃", min_size=1, max_size=8).filter(lambda n: n.strip("."))
files = st.dictionaries(
    st.builds(str.__add__, entries, st.sampled_from([*sorted(SUFFIXES), ".PNG", ".txt", ""])),
    st.one_of(st.sampled_from(WHOLE), broken, st.sampled_from(["folder", "link", "loop", "pipe"])),
    max_size=4,
)
trees = st.dictionaries(
    st.sampled_from(["train", "test", "val"]), st.dictionaries(entries, files, max_size=3), max_size=3
)


def plant(root: Path, tree: dict[str, dict[str, dict[str, Any]]]) -> None:
    for split, classes in tree.items():
        for name, held in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for file, content in held.items():
                path = root / split / name / file
                if isinstance(content, bytes):
                    path.write_bytes(content)
                elif content == "folder":
                    path.mkdir()
                else:
                    path.symlink_to({"link": "nowhere.png", "loop": path.name, "pipe": "/dev/null"}[content])


@given(trees)
def test_folders_of_images(tree: dict[str, dict[str, dict[str, Any]]]) -> None:
    with folder() as here, contextlib.redirect_stdout(None):
        plant(here / "root", tree)
        try:
            source = open_source("folder", "root", None, 8)
            source.prepare(["train"])
            held = source.load("train")
        except UsageError:
            pass
        else:
            assert held.images.shape == (len(held), 8, 8, 3)
            assert set(held.labels.tolist()) == set(range(len(held.classes)))
            assert held.classes == tuple(sorted(name for name in tree["train"] if not name.startswith(".")))


@pytest.fixture(scope="module")
def small(trained: Path) -> bytes:
    """A checkpoint with little in it, so that what is changed matters."""
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    file = io.BytesIO()
    torch.save({**checkpoint, "state_dict": {}, "optimizer_states": []}, file)
    return file.getvalue()


@given(changes=edits.map(lambda made: [(where * 7, how, new) for where, how, new in made]))
def test_checkpoints(changes: list[tuple[int, str, bytes]], small: bytes) -> None:
    with folder():
        Path("any.ckpt").write_bytes(change(small, changes))
        with contextlib.suppress(UsageError):
            Checkpoint.read(Path("any.ckpt"))
