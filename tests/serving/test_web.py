"""The page in a real browser."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_lightning.inference.predictor import Predictor
from tests import chromium
from tests.serving.client import CARD, Server, bomb, image, serving, write_colours

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason="needs Chromium")


@pytest.fixture
def page(server: Server, tmp_path: Path) -> Iterator[chromium.Page]:
    """Return the page, loaded."""
    with chromium.open_page(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        browser.wait_for("document.querySelector('#warning')?.textContent")
        yield browser


def choose(page: chromium.Page, *files: Path) -> None:
    """Choose files in the page's file input."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)


def verdicts(page: chromium.Page, count: int) -> dict[str, str]:
    """Wait for the results of this many images; return them by the images' names, from top to bottom."""
    found: dict[str, str] = page.wait_for(
        f"document.querySelectorAll('article.answered, article.failed').length == {count} && Object.fromEntries("
        "[...document.querySelectorAll('article')].map(a => [a.querySelector('h3').textContent, "
        "a.querySelector('.verdict').textContent]))"
    )
    return found


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_are_classified_or_rejected(server: Server, page: chromium.Page, tmp_path: Path) -> None:
    home = f"http://127.0.0.1:{server.port}/"
    files = {"green.png": image("green"), "text.jpg": b"dear diary", "bomb.png": bomb(), "blue.png": image("blue")}
    files["large.png"] = bytes(200_001)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert "knows only 3 classes: red, green, blue" in page.evaluate("document.querySelector('#warning').textContent")
    choose(page, *(tmp_path / name for name in ("green.png", "text.jpg", "bomb.png", "large.png")))
    shown = verdicts(page, 4)
    assert shown["green.png"].startswith("green, ")
    assert "not a PNG" in shown["text.jpg"]
    assert "pixels are too many" in shown["bomb.png"]
    assert "limit of 0.2 MB" in shown["large.png"]
    assert page.evaluate("document.querySelectorAll('.bars li').length") == 3
    assert page.wait_for("document.querySelector('article.answered .seen').naturalWidth") == 32

    # When the page scrolls under the pointer, the last event before a drop may be that the pointer enters an element.
    for kind in ("dragenter", "dragover"):
        event = f"new DragEvent('{kind}', {{ bubbles: true, cancelable: true }})"
        assert not page.evaluate(f"document.body.dispatchEvent({event})")  # accepted
    data = {"items": [], "files": [str(tmp_path / "blue.png")], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=step, x=100, y=200, data=data)
    assert verdicts(page, 5)["blue.png"].startswith("blue, ")

    page.evaluate("document.querySelector('#examples button').click()")
    assert "example: airplane" in verdicts(page, 6)
    assert page.evaluate("document.querySelector('#status').textContent").startswith("example: airplane: ")

    page.call("Page.navigate", url=home + "docs")
    assert page.wait_for("document.querySelectorAll('.opblock').length") == 5

    requested = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requested if not url.startswith((home, "data:", "blob:"))] == []
    logged = [e["params"]["entry"] for e in page.events if e["method"] == "Log.entryAdded"]
    assert [entry for entry in logged if entry["source"] != "network"] == []
    assert [e for e in page.events if e["method"] == "Runtime.exceptionThrown"] == []


def test_results_are_in_the_order_of_the_files_and_the_newest_on_top(page: chromium.Page, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("c", "a", "d", "b", "e", "first", "second")]
    for file in files:
        file.write_bytes(image("blue"))
    choose(page, *files[:5])
    verdicts(page, 5)
    choose(page, *files[5:])
    assert list(verdicts(page, 7)) == ["first.png", "second.png", "c.png", "a.png", "d.png", "b.png", "e.png"]


@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 640), (1200, 844)])
def test_the_result_is_scrolled_into_view(width: int, height: int, page: chromium.Page, tmp_path: Path) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 1000
    )
    (tmp_path / "an image with a long name, taken on the beach.png").write_bytes(image())
    choose(page, tmp_path / "an image with a long name, taken on the beach.png")
    verdicts(page, 1)
    for part in (".verdict", ".bars"):
        box = f"document.querySelector('{part}').getBoundingClientRect()"
        assert page.wait_for(f"{box}.top >= 0 && {box}.bottom <= innerHeight")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("dataset", ["synthetic", "cifar10"])
def test_it_says_that_a_model_was_trained_on_drawings(dataset: str, tmp_path: Path) -> None:
    model = write_colours(tmp_path / "model.onnx", replace(CARD, dataset=dataset).to_metadata())
    with serving(Predictor(model, device="cpu")) as server, chromium.open_page(tmp_path / "profile") as page:
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        page.wait_for("document.querySelector('#warning')?.textContent")
        assert page.evaluate("document.querySelector('#drawings').hidden") == (dataset != "synthetic")
        assert "its answers for photos mean nothing" in page.evaluate("document.querySelector('#drawings').textContent")


def test_not_sure_is_an_answer(model: Path, tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(image("grey"))
    (tmp_path / "green.png").write_bytes(image("green"))
    with serving(Predictor(model, min_confidence=0.9)) as server, chromium.open_page(tmp_path / "profile") as page:
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        warning = page.wait_for("document.querySelector('#warning')?.textContent")
        assert 'less than 90.0%, the answer is "not sure"' in warning
        choose(page, tmp_path / "grey.png", tmp_path / "green.png")
        shown = verdicts(page, 2)
        assert shown["grey.png"] == "not sure"
        assert shown["green.png"].startswith("green, ")
        doubts = page.evaluate(
            "[...document.querySelectorAll('.doubt')].filter(d => !d.hidden).map(d => d.textContent)"
        )
        assert len(doubts) == 1
        assert "below 90.0%" in doubts[0]
