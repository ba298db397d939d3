"""Every command and every Python example in the README and the pages of docs/ runs, on small data and cut short."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from PIL import Image

import cifar_lightning
from cifar_lightning.cli import main
from cifar_lightning.commands import COMMANDS
from cifar_lightning.commands.demo import write_sample_images
from cifar_lightning.data.sources.drawings import draw_images
from tests.conftest import FAST, ROOT, Start
from tests.test_configs import SHRUNK

FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
ALL = "\n".join(PAGES.values())


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, without duplicates."""
    return list(dict.fromkeys(re.findall(rf"^```{language}\n(.*?)^```", ALL, re.DOTALL | re.MULTILINE)))


SCRIPTS = [block for block in blocks("bash") if block.startswith("#!")]
MODULES = [block for block in blocks("python") if re.match(r"# my_\w+\.py\n", block)]
"""Files of the user's own; each is in the current folder of the commands."""
LINES = [
    line.split("  #")[0].strip()
    for block in blocks("bash")
    if block not in SCRIPTS
    for line in re.sub(r" \\\n *", " ", block).splitlines()
    if line.strip() and not line.startswith("#")
]
SHOWN = list(dict.fromkeys(LINES))

RUN_ELSEWHERE = {
    r"tensorboard --logdir": "test_tensorboard_reads_a_run",
    r"torchrun --nnodes 2": "test_two_machines_do_what_one_does",
    r"python -m tests\.training\.kills": "test_kill_9_at_any_moment",
    r"python -m benchmarks\.airbench": "test_airbench_runs_both_sides",
    r"cifar-lightning fit .*torchvision:SVHN": "test_svhn_is_read_as_it_is_published",
    r"cifar-lightning fit .*WandbLogger": "test_wandb",
    r"cifar-lightning fit .*MLFlowLogger": "test_mlflow",
    r"cifar-lightning fit --resume_folds": "test_a_set_of_folds_that_was_stopped_ends_as_one_that_was_not",
    r"cifar-lightning audit .*--out_of_fold": "test_wrong_labels_are_suspected",
    r"cifar-lightning predict .*--min_accuracy": "test_not_sure",
}
"""Commands that need other programs, hosts, minutes or what others made, and the tests that run them."""


def run_elsewhere(command: str) -> bool:
    return any(re.match(pattern, command) for pattern in RUN_ELSEWHERE)


SERVE = [c for c in SHOWN if " serve " in c]
MAKE = [c for c in SHOWN if c.startswith("make")]
CURL = [c for c in SHOWN if c.startswith("curl")]
SET_UP = [c for c in SHOWN if re.match(r"\. |pip |(UV_TORCH_BACKEND=cpu )?uvx? ", c)]
IN_PROCESS = [c for c in SHOWN if c.startswith("cifar-lightning ") and c not in SERVE and not run_elsewhere(c)]

SLOW = re.compile(r".*(--workers 2|--corruptions|--runs 3 --test)|cifar-lightning fit --config configs/\w+.yaml$")
"""Tests of sweep and test show the same in `make test`, and test_configs.py trains every recipe as it is."""

DEFINED = {
    name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
}


def test_every_command_is_run() -> None:
    groups = [SERVE, MAKE, CURL, SET_UP, IN_PROCESS, [c for c in SHOWN if run_elsewhere(c)]]
    assert sorted(SHOWN) == sorted(command for group in groups for command in group)
    for command in COMMANDS:
        assert [c for c in SHOWN if f"cifar-lightning {command} " in f"{c} "], command


@pytest.mark.parametrize("pattern", RUN_ELSEWHERE)
def test_what_is_run_elsewhere_is(pattern: str) -> None:
    assert [c for c in SHOWN if re.match(pattern, c)]
    assert RUN_ELSEWHERE[pattern] in DEFINED


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_the_target(command: str) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


@pytest.fixture
def ready(here: Path, trained: Path, exported: Path, image_folder: Path) -> None:
    """Make the current folder one in which the commands have what they need."""
    shutil.copytree(ROOT / "configs", "configs")
    write_sample_images(Path("demo-images"))
    shutil.copytree(trained, "runs/demo/version_0")
    shutil.copytree(trained, "runs/cnn/version_0")
    shutil.copy(exported / "model.onnx", "model.onnx")
    shutil.copytree(image_folder / "train", "photos")
    for image in ("cat.jpg", "dog.jpg", "holiday/1.png"):
        Path(image).parent.mkdir(exist_ok=True)
        Image.fromarray(draw_images(1, 0, 50)[0][0].numpy()).save(image)
    for block in MODULES:
        Path(block.split()[1]).write_text(block, encoding="utf-8")


def shorten(words: list[str], data_root: Path) -> list[str]:
    """Return the options with which a command takes a second or two, on the CPU and without a download."""
    if words[0] == "test":
        return ["--trainer.limit_test_batches=1"]
    if words[0] == "audit" and "--data.root" not in words:
        return ["--data.dataset=synthetic", f"--data.root={data_root}", "--data.train_size=300", "--data.val_size=50"]
    one_cpu = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    if words[0] not in ("demo", "fit", "bench", "sweep"):
        return one_cpu if "--trainer.devices" in words else []
    options = [*FAST, *one_cpu]
    options += [option for name, extra in SHRUNK.items() if f"configs/{name}.yaml" in words for option in extra]
    options += ["--trainer.max_epochs=3"]  # more than the two of the run that is resumed
    if "--data.root" in words:  # the user's own images
        options += ["--data.val_size=0.2", "--data.batch_size=8", "--data.image_size=32"]
    else:
        if "--data.dataset" not in words:
            options += ["--data.dataset=synthetic"]
        options += [f"--data.root={data_root}", "--data.url=null"]
        if "--ckpt_path" not in words:
            options += ["--data.batch_size=8", "--data.eval_batch_size=20", "--data.val_size=20"]
    if "--ckpt_path" not in words:
        options += ["--trainer.limit_train_batches=1"]
    return options + {"bench": ["--batches=2"], "sweep": ["--trials=1"]}.get(words[0], [])


@pytest.mark.usefixtures("ready", "official_weights")
@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.slow) if SLOW.match(c) else c for c in IN_PROCESS]
)
def test_command_does_what_it_says(command: str, data_root: Path) -> None:
    words = shlex.split(command.replace("postgresql://sweep@host/sweep", "sqlite:///shared.db"))[1:]
    assert main(words + shorten(words, data_root)) == 0


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("command", SERVE)
@pytest.mark.posix("Windows sends Ctrl+C to whole consoles only")
def test_serve_starts_answers_and_stops(command: str, start: Start) -> None:
    words = shlex.split(command)
    environment = dict(word.split("=", 1) for word in words[: words.index("cifar-lightning")])
    server = start("-m", "cifar_lightning", *words[words.index("serve") :], "--port=0", **environment)
    assert server.stdout
    while "open http://" not in (line := server.stdout.readline()):
        assert line, server.communicate()
    address = line.split()[1]
    with urllib.request.urlopen(f"{address}/readyz", timeout=400) as answer:
        assert answer.status == 200
    if command == SERVE[0] and shutil.which("curl"):
        for request in CURL:
            words = shlex.split(request.replace("http://127.0.0.1:8000", address))
            done = subprocess.run([*words, "--fail", "--silent"], capture_output=True, check=False, timeout=400)
            assert done.returncode == 0, request
            assert json.loads(done.stdout)
    server.send_signal(signal.SIGINT)
    said = server.communicate(timeout=400)[0]
    assert server.returncode == 0, said


@pytest.mark.posix("SLURM runs on Linux")
def test_the_batch_script_trains_and_then_resumes(here: Path) -> None:
    (script,) = SCRIPTS
    Path("srun").write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    Path("srun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    last = Path("runs/resnet18/version_0/last.ckpt")
    for option in ("--config configs/resnet18.yaml", f"--ckpt_path {last}"):
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == f"cifar-lightning fit {option} --trainer.accelerator gpu"
        last.parent.mkdir(parents=True, exist_ok=True)
        last.touch()


@pytest.mark.usefixtures("ready")
@pytest.mark.filterwarnings("ignore")  # Lightning's about loaders without workers
@pytest.mark.parametrize("code", [block for block in blocks("python") if block not in MODULES])
def test_python_example_runs(code: str, data_root: Path) -> None:
    code = code.replace("ImageDataModule(", f"ImageDataModule(root={str(data_root)!r}, ")
    code = code.replace("Trainer(", "Trainer(limit_train_batches=2, logger=False, ")
    code = code.replace('"dataset": "synthetic"', f'"dataset": "synthetic", "root": {str(data_root)!r}')
    code = code.replace('"data.dataset": "synthetic"', f'"data.dataset": "synthetic", "data.root": {str(data_root)!r}')
    code = code.replace('"trainer.max_epochs": 2', '"trainer.max_epochs": 2, "trainer.limit_train_batches": 2')
    exec(code, {})


def test_tensorboard_reads_a_run(trained: Path) -> None:
    words = [sys.executable, "-m", "tensorboard.main", "--inspect", "--logdir", str(trained.parent.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "val/acc" in done.stdout


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].split()) <= 900


def test_the_readme_s_figures_are_those_that_were_measured() -> None:
    rows = re.findall(r"^\| `(\w+\.yaml)`[^|]*\|(.*)\|$", PAGES["README.md"], re.MULTILINE)
    assert rows
    for name, cells in rows:
        header = (ROOT / "configs" / name).read_text(encoding="utf-8")
        accuracy, n, seconds, processor = (cell.strip() for cell in cells.split("|"))
        for figure in (accuracy, f"(n = {n}", f"Time: {seconds} on 2 cores of a", " with ".join(processor.split(", "))):
            assert figure in header, name
    results = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8")
    for ratio, spread in re.findall(r"(\d+\.\d+) times as fast[^(]*\((.*?)\)", PAGES["README.md"], re.DOTALL):
        assert f"{ratio} ({' '.join(spread.split())}) times as fast" in results


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    text, place = PAGES[page], (ROOT / page).parent
    for link in re.findall(r"\]\(((?!http)[^)#]+)[^)]*\)", text):
        assert (place / link).stat().st_size > 0, link
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|md))`", text):
        assert (ROOT / name).is_file() or (ROOT / "cifar_lightning" / name).is_file(), name
    for name in re.findall(r"`(test_\w+)`", text) if page == "docs/trust.md" else ():
        assert name in DEFINED, name
    for folder, rest in re.findall(r"`(training|models|transforms|reporting|inference|io)\.([\w.]+)`", text):
        module, _, attribute = rest.partition(".")
        found = import_module(f"cifar_lightning.{folder}.{module}")
        assert not attribute or hasattr(found, attribute), f"{folder}.{rest}"
    for command in re.findall(r"`cifar-lightning (\w+)", text):
        assert command in COMMANDS, command


def test_every_public_name_is_described() -> None:
    described = set(re.findall(r"^::: cifar_lightning\.(\w+)$", PAGES["docs/api.md"], re.MULTILINE))
    assert described == set(cifar_lightning.__all__)
    for name in described:  # outside of ``code``, the site would take <name> for HTML
        text = re.sub(r"``.*?``", "", getattr(cifar_lightning, name).__doc__, flags=re.DOTALL)
        assert not re.search(r"<\w+>", text), name


def test_the_networks_are_those_that_there_are() -> None:
    named = re.findall(r"^\| `(\w+)` \| [\d,]+ \|", PAGES["docs/recipes.md"], re.MULTILINE)
    assert sorted(named) == cifar_lightning.list_models()


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = {f"docs/{page}" for entry in nav for page in entry.values()}
    assert named == {page for page in PAGES if page.startswith("docs/")} | {"docs/tour.ipynb"}
