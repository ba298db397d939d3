"""The page in a real browser."""

from pathlib import Path

import pytest

from tests import chromium
from tests.serving.client import Server, bomb, image


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(chromium.PATH is None, reason="needs Chromium")
def test_the_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    home = f"http://127.0.0.1:{server.port}/"
    files = {"green.png": image("green"), "text.jpg": b"dear diary", "bomb.png": bomb(), "blue.png": image("blue")}
    files["large.png"] = bytes(200_001)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with chromium.open_page(tmp_path / "profile") as browser:

        def verdicts(count: int) -> dict[str, str]:
            found: dict[str, str] = browser.wait_for(
                f"document.querySelectorAll('article.answered, article.wrong').length == {count} && Object.fromEntries("
                "[...document.querySelectorAll('article')].map(a => [a.querySelector('h3').textContent, "
                "a.querySelector('.verdict').textContent]))"
            )
            return found

        browser.call("Page.navigate", url=home)
        assert "knows 3 classes only: red, green, blue" in browser.wait_for(
            "document.querySelector('#warning')?.textContent"
        )
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        chosen = [str(tmp_path / name) for name in ("green.png", "text.jpg", "bomb.png", "large.png")]
        browser.call("DOM.setFileInputFiles", files=chosen, nodeId=node)
        said = verdicts(4)
        assert said["green.png"].startswith("green, ")
        assert "not a PNG" in said["text.jpg"]
        assert "pixels are too many" in said["bomb.png"]
        assert "0.2 MB at most" in said["large.png"]
        assert browser.evaluate("document.querySelectorAll('.bars li').length") == 3
        assert browser.wait_for("document.querySelector('article.answered .seen').naturalWidth") == 32

        data = {"items": [], "files": [str(tmp_path / "blue.png")], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            browser.call("Input.dispatchDragEvent", type=step, x=100, y=200, data=data)
        assert verdicts(5)["blue.png"].startswith("blue, ")

        browser.evaluate("document.querySelector('#examples button').click()")
        assert "example: airplane" in verdicts(6)
        assert browser.evaluate("document.querySelector('#status').textContent").startswith("example: airplane: ")

        browser.call("Page.navigate", url=home + "docs")
        assert browser.wait_for("document.querySelectorAll('.opblock').length") == 5

        asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
        logged = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
        assert [entry for entry in logged if entry["source"] != "network"] == []
        assert [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"] == []
