"""The demo: one or several trained runs behind a web page and an endpoint, on this machine unless told otherwise."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.basis.settings import Settings
from groundup.runs.reports.comparison import short_names
from groundup.ship.demo.limits import KeptFiles, RequestLimits
from groundup.ship.demo.model import open_run
from groundup.ship.demo.page import build_page, installed_gradio, look
from groundup.ship.demo.picture import MAX_BYTES


class DemoSettings(Settings):
    """Where the demo listens."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 is every one the machine has."
    )
    port: int = Field(7860, ge=0, le=65535, description="TCP port; 0: a free one.")
    share: bool = Field(False, description="Also open a public address through Gradio's servers.")


@dataclass(frozen=True)
class Served:
    """A running demo. `address`: of its page; `public`: of Gradio's tunnel, None without one."""

    address: str
    public: str | None


@contextmanager
def serving(
    runs: Sequence[Path | str],
    settings: DemoSettings | None = None,
    stop: StopRequest | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Served]:
    """Serve runs while inside. Uploaded pictures lie in a temporary folder, which is gone afterwards."""
    settings, stop = settings or DemoSettings(), stop or StopRequest()
    if not runs:
        raise UsageError("there is no run to show", hint="name at least one run folder")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UsageError("a run is named twice", hint="name every run once")
    installed_gradio()
    port = _free_port(settings)  # before the minutes that a first start may take
    names = short_names([Path(run) for run in runs])
    with (
        tempfile.TemporaryDirectory(prefix="groundup-demo-") as folder,
        _uploads_in(Path(folder) / "uploads") as uploads,
    ):
        opened = []
        for run, name in zip(runs, names, strict=True):
            say(f"loading {run}")
            opened.append(open_run(run, name, Path(folder) / "facts", stop, say))
        stop.check()
        page = build_page(opened, uploads)
        try:
            _launch(page, settings, port, KeptFiles(uploads))
            yield Served(str(page.local_url), page.share_url)
        finally:
            page.close(verbose=False)


def serve(
    runs: Sequence[Path | str], settings: DemoSettings, stop: StopRequest, say: Callable[[str], None] = print
) -> None:
    """Serve runs until a signal asks to stop."""
    with serving(runs, settings, stop, say) as served:
        say(f"{served.address} (Ctrl-C ends it)")
        if served.public:
            say(f"{served.public} (public, through Gradio's servers)")
        while stop.pending is None:
            time.sleep(0.1)


def _launch(page: Any, settings: DemoSettings, port: int, kept: KeptFiles) -> None:
    from starlette.middleware import Middleware

    style = look()
    try:
        page.launch(
            server_name=settings.host,
            server_port=port,
            share=settings.share,
            inbrowser=False,
            inline=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            max_file_size=MAX_BYTES,
            footer_links=["api", "settings"],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            theme=style.theme,
            css=style.css,
            js=style.js,
            app_kwargs={"middleware": [Middleware(RequestLimits, upload_bytes=MAX_BYTES, kept=kept)]},
        )
    except OSError as error:
        raise _cannot_listen(settings, error) from error


def _free_port(settings: DemoSettings) -> int:
    """The port that is asked for, or a free one for 0. UsageError if nothing can listen there."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise _cannot_listen(settings, error) from error


def _cannot_listen(settings: DemoSettings, error: OSError) -> UsageError:
    return UsageError(
        f"--host {settings.host} --port {settings.port}: cannot listen there: {error.strerror or error}",
        hint="if another program uses the port, name another one, or 0 for a free one",
    )


@contextmanager
def _uploads_in(folder: Path) -> Iterator[Path]:
    """Gradio's files in `folder` while inside."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    folder.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before
