"""A page in the browser that takes songs apart: `python -m frametx.app ckpts=runs`.

It is served to this machine only, and neither the page nor the server asks anybody else for
anything: no fonts, no scripts, no statistics.
"""

import logging
import os
import signal
import socket
import threading
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig, ListConfig

from frametx.app_addresses import is_loopback, own_addresses
from frametx.app_studio import Studio
from frametx.config import hydra_main
from frametx.execution import choose_device
from frametx.unfinished import clear_folders, temporary_folder

FIRST_PORT, NUM_PORTS = 7860, 100
NO_REQUESTS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def serve(cfg: DictConfig) -> None:
    """Show the page until SIGINT or SIGTERM, as conf/app.yaml says.

    Raises:
        FileNotFoundError: if what `cfg.ckpts` names is not there.
        ValueError: if there is no checkpoint, no such device, the port is taken, or nothing could
            be uploaded.
        ModuleNotFoundError: if gradio is not installed.
    """
    listed = cfg.ckpts if isinstance(cfg.ckpts, ListConfig) else [cfg.ckpts]
    sources = [Path(str(path)).expanduser() for path in listed]
    device = choose_device(str(cfg.device))
    host = str(cfg.host)
    port = choose_port(host, None if cfg.port is None else int(cfg.port))
    max_bytes = upload_bytes(cfg.max_upload_gb)
    allowed = [cfg.allowed_hosts] if isinstance(cfg.allowed_hosts, str) else cfg.allowed_hosts
    allowed = [str(name) for name in allowed]
    clear_folders()
    with temporary_folder("app-") as name:
        folder = Path(name)
        output = folder / "stems" if cfg.output is None else Path(str(cfg.output)).expanduser()
        studio = Studio(sources=sources, device=device, output=output)
        # Gradio reads these when it is imported.
        os.environ.update(NO_REQUESTS, GRADIO_TEMP_DIR=str(folder / "uploads"))
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it names each request to itself
        try:
            from frametx.app_guard import Gate
            from frametx.app_page import CSS, Sessions, build_page, theme
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the page needs the package {str(error.name).partition('.')[0]}: "
                "pip install 'frametx[app]'"
            ) from error
        output.mkdir(parents=True, exist_ok=True)
        sessions = Sessions(is_kept=cfg.output is not None)
        gate = Gate(
            is_own=own_addresses(host, port, allowed),
            port=port,
            uploads=folder / "uploads",
            max_bytes=max_bytes,
            folder_of=sessions.folder_of,
            forget=sessions.forget,
        )
        page = build_page(studio, sessions)
        page.queue()
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=bool(cfg.open_browser),
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
            allowed_paths=[str(output.absolute())],  # of which the gate gives each its own
            max_file_size=max_bytes,
            app_kwargs={"lifespan": gate.lifespan},
            footer_links=[],
            theme=theme(),
            css=CSS,
        )
        print(
            f"{len(studio.checkpoints)} model(s), on {device}: {url(host, port)} (Ctrl-C ends it)"
        )
        if not is_loopback(host):
            print(f"host={host}: everybody in the network can use this page", flush=True)
        try:
            wait_for_signal()
        finally:
            sessions.stop_all()
            studio.close(timeout_s=30)
            page.close(verbose=False)


def upload_bytes(gigabytes: object) -> int:
    """The size of the largest song in bytes.

    Raises:
        ValueError: if it is no number above 0.
    """
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, int | float):
        raise ValueError(f"max_upload_gb={gigabytes} must be a number of gigabytes, such as 1")
    if not 1e-6 <= gigabytes <= 1e6:
        raise ValueError(f"max_upload_gb={gigabytes} must be from 0.000001 to 1000000")
    return round(gigabytes * 1e9)


def choose_port(host: str, port: int | None) -> int:
    """The port asked for, or the first free one, at an address of this machine.

    Raises:
        ValueError: if it is taken, or the address is not one of this machine's.
    """
    if port is not None and not 1 <= port <= 65_535:
        raise ValueError(f"port={port} must be from 1 to 65535, or null for the first free one")
    for candidate in range(FIRST_PORT, FIRST_PORT + NUM_PORTS) if port is None else [port]:
        reason = why_taken(host, candidate)
        if reason is None:
            return candidate
        if port is not None:
            raise ValueError(f"port={port} at {host} cannot be used ({reason}): try port=null")
    raise ValueError(f"no port from {FIRST_PORT} to {FIRST_PORT + NUM_PORTS - 1} is free: give one")


def why_taken(host: str, port: int) -> str | None:
    """Why nothing can listen there, or None.

    Raises:
        ValueError: if the address is not one of this machine's.
    """
    try:
        kind, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"host={host} is no address: use 127.0.0.1 or 0.0.0.0") from error
    with socket.socket(kind, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            listener.bind(where)
        except OSError as error:
            return error.strerror
    return None


def url(host: str, port: int) -> str:
    """What to type into a browser."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}"


def wait_for_signal() -> None:
    """Return when the user or the system ends the program."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended.wait(timeout=1.0):  # a wait without end would not let signals in on Windows
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@hydra_main("app")
def main(cfg: DictConfig) -> None:
    """Serve the page."""
    serve(cfg)


if __name__ == "__main__":
    main()
