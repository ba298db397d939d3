"""report.html: complete, escaped, and without requests to other hosts."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.reporting.record_schema import TEST, read_record
from cifar_lightning.reporting.run_report import write_report
from tests import chromium


class Collector(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "poster", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def tested(trained: Path, here: Path) -> Path:
    """A copy of the trained run, tested."""
    folder = Path("runs") / "demo" / "version_0"
    shutil.copytree(trained, folder)
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0
    return folder


def test_fit_writes_the_page(trained: Path) -> None:
    page = Collector((trained / "report.html").read_text(encoding="utf-8"))
    for said in (
        "cnn on synthetic",
        "122,570",
        "Training",
        "Configuration",
        "log_every_n_steps: 1",
        "hardware",
        "seed",
    ):
        assert said in page.text
    assert "Corruptions" not in page.text
    assert page.tags.count("img") == 8


def test_test_updates_the_page(tested: Path) -> None:
    page = Collector((tested / "report.html").read_text(encoding="utf-8"))
    for said in ("calibration error", "negative log-likelihood", "top-3 accuracy", "airplane", "95% interval"):
        assert said in page.text
    assert page.tags.count("img") == 14
    assert "overwritten" not in page.text
    shutil.copy(tested / "best.ckpt", tested / "kept.ckpt")
    (tested / "best.ckpt").write_bytes(b"another one")
    write_report(tested)
    assert "overwritten" in (tested / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file(tested: Path) -> None:
    text = (tested / "report.html").read_text(encoding="utf-8")
    page = Collector(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text
    assert not re.search(r"url\(", text)


def test_names_are_escaped(
    image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # Room for the whole names.
    for split in ("train", "test"):
        (image_folder / split / "blue").rename(image_folder / split / "<script>alert(1)")
        (image_folder / split / "red").rename(image_folder / split / (odd := '"><img src=x onerror=alert(1)> [b]$x$'))
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=8", "--data.val_size=12"]
    assert main(["fit", *words, "--trainer.max_epochs=1"]) == 0
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0
    assert odd in capsys.readouterr().out
    page = Collector(Path("runs/cnn/version_0/report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "<script>alert(1)" in page.text
    assert all(source.startswith("data:") for source in page.sources)


@pytest.mark.rendered
@pytest.mark.skipif(not chromium.PATH, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_shows_it_without_a_request(tested: Path, tmp_path: Path, width: int) -> None:
    with chromium.open_page(tmp_path / "profile") as page:
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        page.call("Page.navigate", url=(tested / "report.html").absolute().as_uri())
        page.wait_for("document.readyState === 'complete'")
        images = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(images) == 14
        assert min(images) > 300
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "only tables may scroll"
    asked = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert not [e for e in page.events if e.get("method") == "Log.entryAdded"]


def test_a_checkpoint_without_its_run_is_reported(trained: Path, here: Path) -> None:
    (here / "elsewhere").mkdir()
    shutil.copy(trained / "best.ckpt", here / "elsewhere" / "best.ckpt")
    assert main(["test", "--ckpt_path=elsewhere/best.ckpt"]) == 0
    page = Collector((here / "elsewhere" / "report.html").read_text(encoding="utf-8"))
    assert '"arch": "cnn"' in page.text
    assert page.tags.count("img") == 6


BROKEN = {
    "fit.json": ['{"seconds": "x"}', "[1]", "{", "1" * 5000, '{"seconds": 1}'],
    "test.json": ['{"accuracy": "x"}', "null", '{"accuracy": Infinity}'],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in BROKEN for content in BROKEN[name]])
def test_a_broken_record_is_named_and_left_out(name: str, content: str, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo" / "version_0"
    folder.mkdir(parents=True)
    for file in ("fit.json", "metrics.csv"):
        shutil.copy(trained / file, folder)
    (folder / "config.yaml").write_bytes(b"\xff")
    (folder / name).write_text(content)
    write_report(folder)
    text = Collector((folder / "report.html").read_text(encoding="utf-8")).text
    assert re.search(rf"Left out: (in )?{name}", text)
    assert ("training time" in text) == (name != "fit.json")


def test_a_broken_fit_json_does_not_affect_a_test(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("runs") / "demo" / "version_0"
    folder.mkdir(parents=True)
    shutil.copy(trained / "best.ckpt", folder)
    (folder / "fit.json").write_text('{"seconds": "x"}')
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0
    assert "test/acc " in capsys.readouterr().out
    assert read_record(folder / "test.json", TEST)[0]["images"] == 2000


def test_a_broken_test_json_does_not_affect_a_training(trained: Path, here: Path) -> None:
    folder = Path("runs") / "demo" / "version_0"
    shutil.copytree(trained, folder)
    (folder / "test.json").write_text('{"accuracy": "x"}')
    (folder / "fit.json").unlink()
    assert main(["fit", "--ckpt_path=last.ckpt"]) == 0
    assert (folder / "fit.json").exists()
    assert "Left out: test.json lacks" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_figure_names_of_release_0_1_0_are_known(tested: Path) -> None:
    figures = tested / "figures"
    (figures / "test_misclassified.png").rename(figures / "test_mistakes.png")
    write_report(tested)
    page = (tested / "report.html").read_text(encoding="utf-8")
    assert Collector(page).tags.count("img") == 14
    Image.new("RGB", (2, 2)).save(figures / "test_misclassified.png")  # tested again by this release
    write_report(tested)
    assert (tested / "report.html").read_text(encoding="utf-8") != page
