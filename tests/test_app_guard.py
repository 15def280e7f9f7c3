"""The page over HTTP: what other sites, other browsers and too much of it are answered."""

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile as sf

from frametx import app
from frametx.app_addresses import own_addresses
from frametx.checkpoint import build, save_separator

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LIMIT = 1_000_000
SEPARATOR = {
    "_target_": "frametx.separator.SpectrogramSeparator",
    "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 512, "hop_length": 128},
    "network": {"_target_": "torch.nn.Identity"},
    "stems": ["vocals", "instrumental"],
    "complement": "vocals",
    "sample_rate": 16_000,
    "num_channels": 2,
    "chunk_frames": 65,
    "scale": "chunk_peak",
    "top_bin": "copy",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The command: its address, its port, and the folder of its temporary files."""
    folder = tmp_path_factory.mktemp("page")
    save_separator(folder / "tiny.ckpt", build(SEPARATOR), SEPARATOR, model="tiny")
    port = app.choose_port("127.0.0.1", None)
    command = [sys.executable, "-m", "frametx.app", "ckpts=tiny.ckpt", f"port={port}", "device=cpu"]
    command += [f"max_upload_gb={LIMIT / 1e9}", "allowed_hosts=[music.example.org]"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            assert f"http://127.0.0.1:{port}" in said
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, folder=folder)
        finally:
            process.terminate()
            process.wait()
    assert process.returncode == 0
    assert not list(folder.glob("frametx-*"))


@pytest.fixture
def browser(page: Any) -> Iterator[Callable[[], httpx.Client]]:
    """Opens browsers that have loaded the page."""
    opened: list[httpx.Client] = []

    def load() -> httpx.Client:
        opened.append(httpx.Client(base_url=page.url, timeout=60, trust_env=False))
        assert opened[-1].get("/").status_code == 200
        return opened[-1]

    yield load
    for client in opened:
        client.close()


def song(length: int = 8_000) -> bytes:
    noise = np.random.default_rng(0).integers(-3_000, 3_000, (length, 2), dtype=np.int16)
    file = io.BytesIO()
    sf.write(file, noise, 16_000, format="WAV")
    return file.getvalue()


def uploaded(
    client: httpx.Client, content: bytes | None = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    files = {"files": ("song.wav", song() if content is None else content)}
    return client.post("/gradio_api/upload", files=files, headers=headers)


def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1:1"),
        *("localhost", "127.0.0.1@evil.example", "evil.example/127.0.0.1:{port}", "", "10.0.0.1"),
        *("[::1]:1", "127.0.0.1:{port}.evil.example", "localhost.:{port}", "music.example.org.x"),
    ],
)
def test_another_name_of_this_machine_gets_nothing(page: Any, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/upload")):
        answer = httpx.request(
            method, page.url + path, headers={"Host": host.format(port=page.port)}, trust_env=False
        )
        assert answer.status_code in (400, 403)
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert len(answer.text.splitlines()) <= 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "LocalHost:{port}"]
)
def test_the_names_of_this_machine_and_those_that_are_allowed_get_the_page(
    page: Any, host: str
) -> None:
    for name in (host.format(port=page.port), "music.example.org", "music.example.org:8443"):
        answer = httpx.get(page.url, headers={"Host": name}, trust_env=False)
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"frametx_{page.port}=")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Origin": ""},
        {"Origin": "http://localhost:{port}"},
        {"Referer": "https://evil.example/127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_can_send_nothing(
    page: Any, browser: Callable[[], httpx.Client], headers: dict[str, str]
) -> None:
    client = browser()
    headers = {name: value.format(port=page.port) for name, value in headers.items()}
    assert uploaded(client, headers=headers).status_code == 403
    for path in ("/gradio_api/queue/join", "/gradio_api/cancel"):
        assert client.post(path, json={"session_hash": "x"}, headers=headers).status_code == 403
    for path in ("/gradio_api/heartbeat/x", "/gradio_api/queue/data?session_hash=x"):
        assert client.get(path, headers=headers).status_code == 403
    assert client.options("/gradio_api/upload", headers=headers).status_code == 403


def test_the_page_itself_may_send_and_be_linked_to(
    page: Any, browser: Callable[[], httpx.Client]
) -> None:
    client = browser()
    own = {"Origin": page.url, "Referer": f"{page.url}/", "Sec-Fetch-Site": "same-origin"}
    assert uploaded(client, headers=own).status_code == 200
    link = {"Referer": "https://elsewhere.example/", "Sec-Fetch-Site": "cross-site"}
    assert client.get("/", headers=link).status_code == 200


def test_an_upload_is_read_by_its_browser_alone(
    page: Any, browser: Callable[[], httpx.Client]
) -> None:
    mine, other = browser(), browser()
    content = song()
    (path,) = uploaded(mine, content).json()
    assert mine.get(f"/gradio_api/file={path}").content == content
    part = mine.get(f"/gradio_api/file={path}", headers={"Range": "bytes=0-3"})
    assert part.content == b"RIFF"
    stranger = httpx.Client(base_url=page.url, trust_env=False)
    folder = str(Path(path).parent)
    for client in (other, stranger):
        for way in (path, f"{folder}/../{Path(folder).name}/song.wav", path.replace("/", "%2f")):
            for route in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
                assert client.get(route + way).status_code in (403, 404)
    assert uploaded(stranger).status_code == 403
    stranger.close()
    (same,) = uploaded(other, content).json()  # the same song is another file
    assert same != path
    data = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [data], "fn_index": 0, "session_hash": "theirs"}
    assert other.post("/gradio_api/queue/join", json=body).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../../../../etc/passwd", "//etc/passwd", "%2e%2e/%2e%2e/etc/passwd"),
        *("{uploads}", "{uploads}/../../tiny.ckpt", "{page}/tiny.ckpt", "{uploads}/link/passwd"),
        *("{uploads}/..%2f..%2f..%2ftiny.ckpt", "/proc/self/environ", "~/.bashrc"),
        *("http://127.0.0.1:1/x", "https://example.org/", "file:///etc/passwd", "C:\\x", "%00"),
    ],
)
def test_no_path_leads_out_of_a_browsers_folder(
    page: Any, browser: Callable[[], httpx.Client], path: str
) -> None:
    client = browser()
    uploads = Path(uploaded(client).json()[0]).parent
    (uploads / "link").symlink_to("/etc")
    way = path.format(uploads=uploads, page=page.folder)
    for route in ("/gradio_api/file=", "/gradio_api/file/"):
        answer = client.get(route + way)
        assert answer.status_code in (403, 404)
        assert "root:" not in answer.text
    body = {"data": [{"path": way}], "fn_index": 0, "session_hash": "x"}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 403


def chunks(size: int, sent: list[int]) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.wav"\r\n\r\n'
    for _ in range(0, size, 100_000):
        sent.append(100_000)
        yield bytes(100_000)
    yield b"\r\n--b--\r\n"


def test_an_upload_beyond_the_limit_is_refused_and_nothing_of_it_is_kept(
    page: Any, browser: Callable[[], httpx.Client]
) -> None:
    client = browser()
    before = set(page.folder.rglob("*"))
    answer = uploaded(client, bytes(LIMIT + 200_000))
    assert answer.status_code == 413
    assert "max_upload_gb" in answer.text
    chunked = {"Content-Type": "multipart/form-data; boundary=b"}
    for size in (LIMIT + 100_000, 50 * LIMIT):  # without a length
        sent: list[int] = []
        try:
            answer = client.post("/gradio_api/upload", content=chunks(size, sent), headers=chunked)
            assert answer.status_code == 413
            assert len(answer.text.splitlines()) == 1
        except httpx.WriteError:  # hung up while sending
            assert sum(sent) < size
    lie = [b"Content-Length: 1000000000000", b"Content-Type: multipart/form-data; boundary=b"]
    assert b" 413 " in raw(page, client, b"POST /gradio_api/upload HTTP/1.1", lie)
    wait_until(lambda: not [p for p in set(page.folder.rglob("*")) - before if p.is_file()])
    assert uploaded(client, bytes(LIMIT - 1_000)).status_code == 200
    message = {"data": ["x" * (2 << 20)], "fn_index": 0, "session_hash": "x"}
    assert client.post("/gradio_api/queue/join", json=message).status_code == 413


def raw(page: Any, client: httpx.Client, first: bytes, headers: list[bytes]) -> bytes:
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    own = [f"Host: 127.0.0.1:{page.port}".encode(), f"Cookie: {cookie}".encode()]
    with socket.create_connection(("127.0.0.1", page.port)) as connection:
        connection.sendall(b"\r\n".join([first, *own, *headers, b"", b""]))
        return connection.recv(4_096).split(b"\r\n")[0]


def test_what_the_page_does_not_need_is_closed(browser: Callable[[], httpx.Client]) -> None:
    client = browser()
    for path in ("run/run", "api/begin", "call/run", "component_server", "process_recording"):
        assert client.post(f"/gradio_api/{path}", json={}).status_code == 404
    for path in ("proxy=http://example.org", "stream/x/y/z/playlist.m3u8", "deep_link?x=y"):
        assert client.get(f"/gradio_api/{path}").status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_a_message_that_is_none_is_refused(
    browser: Callable[[], httpx.Client], body: bytes
) -> None:
    answer = browser().post("/gradio_api/queue/join", content=body)
    assert answer.status_code == 400
    assert len(answer.text.splitlines()) == 1


def separate_in(client: httpx.Client, tab: str, path: str) -> list[str]:
    """Press the button as gradio's own script does, and give the results' addresses."""
    config = client.get("/config").json()
    names = {each["api_name"]: each["id"] for each in config["dependencies"]}
    song = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "song.wav"}
    chosen = [song, ["tiny.ckpt"], "mean", "", "fast", "same", ["vocals", "instrumental"]]
    chosen += [1.0, "instrumental", 0, "", "as the quality says"]
    said = ""
    for name, data in (("picked", [["tiny.ckpt"], None]), ("begin", []), ("run", chosen)):
        body = {"data": data, "fn_index": names[name], "session_hash": tab}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        with client.stream("GET", f"/gradio_api/queue/data?session_hash={tab}") as events:
            for line in events.iter_lines():
                said += line
    assert "alert" not in said, said
    return sorted(set(re.findall(r'src=\\"(gradio_api/file=[^"\\]+)', said)))


def test_results_are_read_by_their_browser_alone_and_go_with_its_tab(
    page: Any, browser: Callable[[], httpx.Client]
) -> None:
    mine, other = browser(), browser()
    (path,) = uploaded(mine).json()
    with mine.stream("GET", "/gradio_api/heartbeat/tab1") as heart:
        beats = heart.iter_lines()  # closes the connection when it is collected
        next(beats)
        addresses = separate_in(mine, "tab1", path)
        assert len(addresses) == 3, addresses  # two stems and the picture
        for address in addresses:
            assert mine.get(f"/{address}").status_code == 200
            assert other.get(f"/{address}").status_code == 403
        for theft in ("queue/data?session_hash=tab1", "heartbeat/tab1"):
            assert other.get(f"/gradio_api/{theft}").status_code == 403
        body = {"data": [], "fn_index": 0, "session_hash": "tab1"}
        assert other.post("/gradio_api/queue/join", json=body).status_code == 403
        assert Path(path).is_file()
    wait_until(lambda: not Path(path).exists())
    for address in addresses:
        wait_until(lambda address=address: not Path(address.partition("=")[2]).exists())
        assert mine.get(f"/{address}").status_code == 403


def test_addresses_of_a_page_for_the_network() -> None:
    is_own = own_addresses("0.0.0.0", 7860)
    for name in ("192.168.1.5:7860", "localhost:8080", "10.0.0.1", "[fe80::1]:7860"):
        assert is_own(name)
    assert is_own(f"{socket.gethostname()}:7860")
    for name in ("evil.example:7860", "192.168.1.5.evil.example", "", "x@10.0.0.1", "10.0.0.1:x"):
        assert not is_own(name)
    chosen = own_addresses("music.lan", 80, ["tunnel:9000"])
    assert chosen("music.lan")
    assert chosen("tunnel:9000")
    assert not chosen("tunnel:9001")
    assert not own_addresses("127.0.0.1", 7860)("192.168.1.5:7860")


def test_browsers_that_do_not_come_back_are_swept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frametx import app_guard

    forgotten: list[str] = []
    gate = app_guard.Gate(
        is_own=lambda _: True,
        port=1,
        uploads=tmp_path,
        max_bytes=1,
        folder_of=lambda _: None,
        forget=forgotten.append,
    )
    for name in ("idle", "open", "old"):
        gate.browsers[name] = app_guard.Browser(uploads=tmp_path / name, tabs={name})
        (tmp_path / name / "upload").mkdir(parents=True)
    gate.browsers["open"].beating["open"] = 1
    gate.browsers["idle"].seen -= app_guard.MAX_IDLE_SECONDS + 1
    gate.browsers["open"].seen -= app_guard.MAX_IDLE_SECONDS + 1
    gate.sweep()
    assert set(gate.browsers) == {"open", "old"}
    assert forgotten == ["idle"]
    assert {path.name for path in tmp_path.iterdir()} == {"open", "old"}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + app_guard.MAX_AGE_SECONDS + 60)
    gate.sweep()
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("size", [0, -1, "much", True, float("nan"), None])
def test_a_limit_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="max_upload_gb="):
        app.upload_bytes(size)
