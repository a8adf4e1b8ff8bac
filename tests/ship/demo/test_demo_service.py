"""The command `groundup demo` as a service: one server for all tests of this file, asked over HTTP."""

import contextlib
import importlib.util
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

import groundup
from groundup.basis.errors import UsageError
from groundup.cli.main import main
from groundup.ship.demo.serving import DemoSettings, serving
from groundup.ship.demo.space import write_space

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

_SPEC = importlib.util.spec_from_file_location("demo_server", Path(__file__).with_name("demo_server.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
demo_server: ModuleType = importlib.util.module_from_spec(_SPEC)
sys.modules["demo_server"] = demo_server
_SPEC.loader.exec_module(demo_server)

REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "docs" / "demo.md"
BENCH = REPOSITORY / "bench" / "demo_load.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_settings: list[str]) -> Iterator[Path]:
    """Two finished runs: `first`, and `second` with another seed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("demo")
        patch.setenv("GROUNDUP_CACHE", str(folder / "cache"))
        (folder / "temporary").mkdir()
        groundup.train("digits", [*demo_settings, "data.validation=0.25"], run=folder / "first")
        groundup.train("digits", [*demo_settings, "seed=1"], run=folder / "second")
        yield folder


# The command, which notes every address that the process connects to or looks up, whatever library does it.
WATCHED = """
import os, sys
def note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        name = arguments[1][0]
    elif event == "socket.getaddrinfo":
        name = arguments[0]
    else:
        return
    with open("connections", "a") as file:
        print(event, name, file=file)
sys.addaudithook(note)
from groundup.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def demo(folder: Path) -> Iterator[Any]:
    """A demo of both."""
    command = ["-c", WATCHED, "demo", "first", "second", "--port", "0"]
    environment = {"GROUNDUP_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "temporary")}
    with demo_server.started(command, folder, **environment) as running:
        yield running
        # The last word: Ctrl-C ends it without an error, and the uploads are gone.
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0
        assert list((folder / "temporary").glob("groundup-demo-*")) == []


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encoded(Image.linear_gradient("L").resize((300, 200)).convert("RGB"), "JPEG")


def test_every_run_answers_as_groundup_load_does(demo: Any, folder: Path, photo: bytes) -> None:
    (folder / "photo.jpg").write_bytes(photo)
    kind, answer = demo.predict(photo, "photo.jpg")
    assert kind == "complete"
    assert answer["picture"] == {"width": 300, "height": 200}
    assert [run["run"] for run in answer["runs"]] == ["first", "second"]
    for run in answer["runs"]:
        expected = groundup.load(folder / run["run"]).predict(folder / "photo.jpg")
        assert [entry["class"] for entry in run["top"]] == [name for name, _ in expected]
        assert [entry["probability"] for entry in run["top"]] == pytest.approx([p for _, p in expected], rel=1e-4)
        assert run["input_size"] == 8
        assert run["temperature"] is None
        assert run["unlike"]["is_unlike"] == (run["unlike"]["score"] > 1)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"a letter, not a picture", "letter.png", "letter.png: a text file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg", "SVG"),
        (encoded(Image.new("RGB", (1, 1))), "dot.png", "1x1 pixels are too few"),
        (encoded(Image.effect_noise((200, 200), 90).convert("RGB"), "JPEG")[:3000], "cut.jpg", "damaged"),
        (encoded(Image.new("L", (8000, 6250)), compress_level=1), "large.png", "50.0 megapixels; at most 25"),
        (b"", "nothing.png", "empty"),
    ],
)
def test_a_bad_picture_gets_its_reason_and_the_server_lives_on(
    content: bytes, name: str, reason: str, demo: Any, photo: bytes
) -> None:
    kind, data = demo.predict(content, name)
    assert kind == "error"
    assert reason in data["error"]
    assert demo.predict(photo, "photo.jpg")[0] == "complete"


def test_an_animation_and_a_large_photograph_are_read(demo: Any) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    kind, answer = demo.predict(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "film.gif")
    assert kind == "complete"
    assert answer["notes"] == ["The picture is animated: its first frame is classified."]
    kind, answer = demo.predict(encoded(Image.new("RGB", (8000, 6250)), "JPEG"), "large.jpg")
    assert (kind, answer["picture"]["width"]) == ("complete", 8000)


def test_no_file_of_the_server_can_be_asked_for(demo: Any, folder: Path) -> None:
    secret = folder / "secret.png"
    Image.new("RGB", (20, 20)).save(secret)
    for sent in ({"path": str(secret), "meta": {"_type": "gradio.FileData"}}, {"path": str(secret)}, {"path": None}):
        kind, data = demo.call(sent)
        assert kind == "error", data
    for place in (secret, folder / "first" / "recipe.yaml", Path("/etc/passwd")):
        assert demo.fetch(f"gradio_api/file={place}")[0] in (403, 404)


def test_an_address_is_not_fetched(demo: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(1)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/photo.png"
        kind, data = demo.call({"path": address, "meta": {"_type": "gradio.FileData"}})
        assert kind == "status 400"
        assert "addresses are not fetched" in data
        with pytest.raises(TimeoutError):
            trap.accept()


def test_an_upload_above_the_limit_is_refused(demo: Any, photo: bytes) -> None:
    with contextlib.suppress(OSError):  # the server may hang up before all of it was sent
        assert demo.upload(b"x" * ((32 << 20) + 100_000), "large.png")[0] == 413
    assert demo.upload(b"x" * ((32 << 20) + 1), "large.png")[0] == 413
    assert demo.predict(photo, "photo.jpg")[0] == "complete"


def test_it_listens_on_loopback_alone(demo: Any) -> None:
    assert demo.address.startswith("http://127.0.0.1:")
    port = int(re.findall(r":(\d+)/", demo.address)[0])
    listening = set()
    if not Path("/proc/net/tcp").exists():
        pytest.skip("there is no /proc to read sockets from")
    # A machine without IPv6 has no second table, and is looked at all the same.
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rpartition(":")[2], 16) == port:
                listening.add(address.partition(":")[0])
    assert listening == {"0100007F"}


def test_the_server_asks_nothing_of_other_machines(demo: Any, folder: Path, photo: bytes) -> None:
    assert demo.predict(photo, "photo.jpg")[0] == "complete"
    asked = {line.split()[1] for line in (folder / "connections").read_text().splitlines()}
    assert "127.0.0.1" in asked  # it looks at its own page when it starts, so the hook works
    assert asked <= {"127.0.0.1", "localhost", "None"}


def test_predict_is_the_only_documented_endpoint(demo: Any) -> None:
    _, text = demo.fetch("gradio_api/info")
    assert list(json.loads(text)["named_endpoints"]) == ["/predict"]


def test_the_page_names_no_other_server(demo: Any) -> None:
    _, text = demo.fetch("config")
    assert "fonts.googleapis" not in text
    assert json.loads(text)["analytics_enabled"] is False


def test_the_client_of_the_documentation_works(demo: Any, folder: Path, photo: bytes) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert "http://127.0.0.1:7860/" in code
    (folder / "photo.jpg").write_bytes(photo)
    script = code.replace("http://127.0.0.1:7860/", demo.address)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert re.search(r"first: \w+ \d+\.\d%", done.stdout)
    assert "a text file" in done.stdout


def test_parallel_clients_are_all_answered(demo: Any, folder: Path, photo: bytes) -> None:
    (folder / "photo.jpg").write_bytes(photo)
    command = [
        sys.executable,
        BENCH,
        demo.address,
        "photo.jpg",
        "--clients",
        "6",
        "--seconds",
        "2",
        "--out",
        "load.json",
    ]
    subprocess.run(list(map(str, command)), cwd=folder, check=True, capture_output=True, timeout=100)
    found = json.loads((folder / "load.json").read_text())
    assert found["failures"] == 0
    assert found["requests"] >= 6
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_what_does_not_fit_into_the_queue_is_refused_with_503(demo: Any, photo: bytes) -> None:
    status, text = demo.upload(photo, "photo.jpg")
    assert status == 200
    picture = {"path": json.loads(text)[0], "orig_name": "photo.jpg", "meta": {"_type": "gradio.FileData"}}
    answers: list[tuple[str, Any]] = []
    # Two are worked on and 64 wait; what is answered meanwhile makes room for a few more.
    clients = [threading.Thread(target=lambda: answers.append(demo.call(picture))) for _ in range(120)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    refused = [text for kind, text in answers if kind == "status 503"]
    assert len(refused) >= 10
    assert all("Queue is full. Max size is 64" in text for text in refused)
    assert len(refused) + sum(kind == "complete" for kind, _ in answers) == 120
    assert demo.call(picture)[0] == "complete"


def test_a_full_folder_refuses_uploads_with_503_and_the_server_lives_on(demo: Any, folder: Path, photo: bytes) -> None:
    (uploads,) = (folder / "temporary").glob("groundup-demo-*/uploads")
    (uploads / "others").mkdir()
    with open(uploads / "others" / "photo.png", "wb") as file:
        file.truncate(1 << 30)  # of holes, which take no room on the disk
    time.sleep(1.1)  # the folder is looked at once a second
    status, text = demo.upload(photo, "photo.jpg")
    assert status == 503
    assert "as many pictures as it has room for" in text
    shutil.rmtree(uploads / "others")
    time.sleep(1.1)
    assert demo.predict(photo, "photo.jpg")[0] == "complete"


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(UsageError, match=f"--port {port}: cannot listen"),
            serving([folder / "first"], DemoSettings(port=port)),
        ):
            pass


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["first", "./first"], "named twice"),
        (["first", "--share", "yes"], "allowed: on, off"),
        (["nothing"], "nothing"),
        (["first", "--wheel", "package.whl"], "--wheel without --space"),
    ],
)
def test_a_mistake_of_the_caller_ends_with_status_2(
    arguments: list[str],
    reason: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["groundup", "demo", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """groundup as it is packaged."""
    copy = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=200)
    (made,) = (copy / "dist").glob("*.whl")
    return made


def metadata_of(space: Path) -> dict[str, Any]:
    """The head of the README of a Space."""
    head = re.match(r"---\n(.*?)---\n", (space / "README.md").read_text(), flags=re.DOTALL)
    assert head is not None
    return dict(yaml.safe_load(head[1]))


def test_a_space_without_a_wheel_asks_for_the_release_and_says_so(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    space = write_space([folder / "first"], tmp_path / "space", say=said.append)
    assert f"groundup[demo]=={groundup.__version__}" in (space / "requirements.txt").read_text().splitlines()
    assert not (space / "groundup").exists()
    assert "--wheel" in said[-1]


def test_a_space_asks_for_a_python_that_groundup_runs_on(folder: Path, tmp_path: Path) -> None:
    asked = metadata_of(write_space([folder / "first"], tmp_path / "space"))["python_version"]
    assert isinstance(asked, str)  # a number would make 3.1 of 3.10
    needed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    assert asked in SpecifierSet(needed)


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        (None, "", "not a wheel of groundup"),
        ("other-0.1.0.dist-info/METADATA", "Name: other\nVersion: 0.1.0\n", "not a wheel of groundup"),
        ("groundup-0.0.1.dist-info/METADATA", "Name: groundup\nVersion: 0.0.1\n", "version 0.0.1"),
    ],
)
def test_what_is_no_wheel_of_this_groundup_is_refused(
    member: str | None, content: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "package.whl"
    if member is not None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(member, content)
            archive.writestr("groundup/__init__.py", "")
    with pytest.raises(UsageError, match=reason):
        write_space([folder / "first"], tmp_path / "space", wheel=file)
    assert not (tmp_path / "space").exists()


def test_a_space_starts_in_a_fresh_process_and_answers(folder: Path, photo: bytes, tmp_path: Path, wheel: Path) -> None:
    write_space([folder / "first"], tmp_path / "space", wheel=wheel)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_space([folder / "first"], tmp_path / "space")
    # It stands on its own: elsewhere, without the run and its data.
    space = Path(shutil.move(tmp_path / "space", tmp_path / "moved"))
    assert {"sdk": "gradio", "app_file": "app.py"}.items() <= metadata_of(space).items()
    # A Space is built from requirements.txt alone: no file beside it can be named there.
    packaged = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    _, *wanted = (space / "requirements.txt").read_text().splitlines()
    expected = [*packaged["dependencies"], *packaged["optional-dependencies"]["demo"]]
    assert {Requirement(line) for line in wanted} == {Requirement(line) for line in expected}
    ask = [sys.executable, "-c", "from importlib.util import find_spec; print(find_spec('groundup').origin)"]
    found = subprocess.run(ask, cwd=space, check=True, capture_output=True, text=True, timeout=100).stdout
    assert Path(found.strip()) == space / "groundup" / "__init__.py"
    environment = {"GRADIO_SERVER_PORT": "0", "GROUNDUP_CACHE": str(tmp_path / "no-cache")}
    with demo_server.started(["app.py"], space, **environment) as running:
        kind, answer = running.predict(photo, "photo.jpg")
        assert kind == "complete"
        (run,) = answer["runs"]
        (folder / "photo.jpg").write_bytes(photo)
        expected = groundup.load(folder / "first").predict(folder / "photo.jpg")
        assert run["run"] == "first"
        assert [entry["class"] for entry in run["top"]] == [name for name, _ in expected]
        assert run["unlike"] is not None
    assert not (tmp_path / "no-cache").exists()
