"""Takes the pictures of the demo page anew, in a Chromium without a window. Run it after a change of the page.

    python docs/make_demo_pictures.py RUN

RUN is a trained run, such as that of cifar100-speed. The photograph is one that comes with scikit-learn.
"""

import base64
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
PORT = 7870
ADDRESS = f"http://127.0.0.1:{PORT}/"
INPUT = "#demo-picture input[type=file]"
# Name of the picture -> width and least height of the window in px, light or dark.
VIEWS = {"demo-desktop": (1280, 800, "light"), "demo-phone": (390, 844, "dark")}


def load_browser() -> ModuleType:
    """The browser that the tests lead."""
    spec = importlib.util.spec_from_file_location("browser", HERE.parent / "tests" / "system" / "browser.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_photograph(path: Path) -> None:
    """A flower."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("flower.jpg")).save(path, quality=92)


def take(page: Any, photograph: Path, name: str) -> None:
    """One view of the page after it has answered."""
    width, height, scheme = VIEWS[name]
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.call("Page.navigate", url="about:blank")
    page.call("Page.navigate", url=ADDRESS)
    page.wait(f"document.querySelector('{INPUT}') !== null", 60)
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=INPUT)["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(photograph)])
    page.wait("document.querySelector('#demo-heat-0 img') !== null", 60)
    time.sleep(1)  # the bars grow
    whole = page.run("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": whole, "scale": 1}
    taken = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    (HERE / "pictures" / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def main(run: str) -> None:
    browser = load_browser()
    program = browser.find_chromium()
    assert program is not None, "no Chromium is installed (apt-get install chromium)"
    command = [sys.executable, "-m", "groundup", "demo", run, "--port", str(PORT)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            print(line, end="", file=sys.stderr)
            if ADDRESS in line:
                break
        assert server.poll() is None, "the demo has ended"
        with tempfile.TemporaryDirectory() as folder, browser.Page(program, Path(folder) / "profile") as page:
            photograph = Path(folder) / "flower.jpg"
            save_photograph(photograph)
            for name in VIEWS:
                take(page, photograph, name)
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main(sys.argv[1])
