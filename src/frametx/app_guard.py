"""Who may ask the page for what: it runs on a person's machine, next to a browser full of others.

Three rules, each before gradio sees a request:

- The address must be one of the page's own, because any site may let its name point to this
  machine (DNS rebinding); and other sites may send nothing.
- A browser gets an unguessable cookie with the page. Uploads, results and tabs belong to it alone.
- What is sent must be of a bounded size, and what a browser sent goes when its last tab is closed.
"""

import asyncio
import json
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gradio.route_utils import upload_fn
from gradio.routes import file_upload_statuses
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"
FILE = re.compile(r"(?:/gradio_api)?/file[=/](.*)", re.DOTALL)
# Of gradio and not of this page: they fetch other addresses, or take files by other ways.
CLOSED = re.compile(r"(/gradio_api)?/(proxy=|stream/|deep_link|monitoring|component_server|vibe)")
POSTS = (f"{API}/upload", f"{API}/queue/join", f"{API}/cancel", f"{API}/reset")
OF_ONE_BROWSER = (f"{API}/upload", f"{API}/queue", f"{API}/heartbeat", f"{API}/cancel")
HEARTBEAT = re.compile(r"/gradio_api/heartbeat/([^/]+)/?")
MAX_MESSAGE_BYTES = 1 << 20  # of what is no upload: the values of the controls
FORM_BYTES = 1 << 16  # what a form adds to its file
MAX_IDLE_SECONDS = 600.0  # of a browser without an open tab
MAX_AGE_SECONDS = 12 * 3600.0  # of a file, even in an open tab
SECONDS_BETWEEN_SWEEPS = 30.0


class RefusedError(Exception):
    """A request that gets a status and a line instead of an answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(kw_only=True)
class Browser:
    """What belongs to one cookie.

    Attributes:
        uploads: folder of its songs; made with the first.
        tabs: gradio's names of the pages that it has opened.
        beating: how many connections each open tab holds.
        seen: when it last asked for something, in seconds of `time.monotonic`.
    """

    uploads: Path
    tabs: set[str] = field(default_factory=set)
    beating: Counter[str] = field(default_factory=Counter)
    seen: float = field(default_factory=time.monotonic)


class Gate:
    """The ASGI application in front of gradio's.

    Args:
        is_own: whether a Host header names this page, see `frametx.app_addresses.own_addresses`.
        port: of the page; browsers keep cookies by host alone, and two pages may run.
        uploads: folder for what browsers send.
        max_bytes: of an upload.
        folder_of: the folder with the results of a tab, if there is one.
        forget: called with a tab that was closed.
    """

    def __init__(
        self,
        *,
        is_own: Callable[[str], bool],
        port: int,
        uploads: Path,
        max_bytes: int,
        folder_of: Callable[[str], Path | None],
        forget: Callable[[str], None],
    ) -> None:
        self.cookie = f"frametx_{port}"
        self.browsers: dict[str, Browser] = {}
        self._is_own = is_own
        self._uploads = uploads
        self._max_bytes = max_bytes
        self._folder_of = folder_of
        self._forget = forget
        self._app: ASGIApp | None = None

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Stand before all of an application's middleware while it runs."""
        self._app = app.middleware_stack
        app.middleware_stack = self
        sweeper = asyncio.create_task(self._sweep_always())
        try:
            yield
        finally:
            sweeper.cancel()
            for browser in self.browsers.values():
                self._empty(browser)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, answer it, or refuse it in one line."""
        assert self._app is not None
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._answer(self._app, scope, receive, send)
        except RefusedError as refused:
            answer = PlainTextResponse(f"{refused}\n", status_code=refused.status)
            await answer(scope, receive, send)

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        self._check_origin(scope, headers)
        browser = self._browser(headers)
        if (scope["method"] == "POST" and path.rstrip("/") not in POSTS) or CLOSED.match(path):
            raise RefusedError(404, "this page does not have that")
        if (wanted := FILE.fullmatch(path)) is not None:
            self._check_file(browser, wanted[1])
        if path.startswith(OF_ONE_BROWSER) and browser is None:
            raise RefusedError(403, "load the page first: its cookie is missing")
        if browser is None:
            await app(scope, receive, self._with_cookie(send) if path == "/" else send)
            return
        browser.seen = time.monotonic()
        if path.rstrip("/") == f"{API}/upload":
            await (await self._uploaded(browser, Request(scope, receive)))(scope, receive, send)
        elif scope["method"] == "POST":
            await app(scope, await self._checked_message(browser, headers, receive), send)
        elif (beat := HEARTBEAT.fullmatch(path)) is not None:
            await self._beat(browser, beat[1], app(scope, receive, send))
        else:
            for tab in parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", []):
                self._check_tab(browser, tab)
            await app(scope, receive, send)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what is sent to another name, or by another site."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise RefusedError(
                403,
                f"{', '.join(map(ascii, hosts)) or 'no host'} is not an address of this page: "
                "open the one that it printed, or start it with allowed_hosts=[name]",
            )
        origins = headers.getlist("origin")
        is_page = scope["method"] in ("GET", "HEAD") and not scope["path"].startswith(API)
        if not is_page:  # links from elsewhere to the page itself are welcome
            origins = origins or headers.getlist("referer")
            site = headers.get("sec-fetch-site", "same-origin")
            if site not in ("same-origin", "none"):
                origins = [site]
        if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
            raise RefusedError(403, "another site may not use this page")

    def _browser(self, headers: Headers) -> Browser | None:
        with suppress(Exception):  # whatever a header holds
            cookies = SimpleCookie("; ".join(headers.getlist("cookie")))
            return self.browsers.get(cookies[self.cookie].value)
        return None

    def _with_cookie(self, send: Send) -> Send:
        secret = secrets.token_urlsafe(32)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The folder's name is seen in addresses, and is no secret that opens anything.
                self.browsers[secret] = Browser(uploads=self._uploads / secrets.token_hex(16))
                MutableHeaders(scope=message).append(
                    "set-cookie", f"{self.cookie}={secret}; HttpOnly; SameSite=Strict; Path=/"
                )
            await send(message)

        return sending

    def _check_file(self, browser: Browser | None, wanted: str) -> None:
        """Let a browser read its uploads and its results, and nothing else."""
        if browser is not None:
            folders = [self._folder_of(tab) for tab in browser.tabs]
            own = [browser.uploads, *(folder for folder in folders if folder is not None)]
            if any(is_inside(wanted, folder) for folder in own):
                return
        raise RefusedError(403, "this file is not one of this browser's")

    def _check_tab(self, browser: Browser, tab: str) -> None:
        """Let a tab belong to the browser that names it first."""
        if any(tab in other.tabs for other in self.browsers.values() if other is not browser):
            raise RefusedError(403, "this tab is not one of this browser's")
        browser.tabs.add(tab)

    async def _checked_message(
        self, browser: Browser, headers: Headers, receive: Receive
    ) -> Receive:
        """A small message, read whole: its tab and its files must be the browser's own."""
        limited = self._limited(headers, receive, MAX_MESSAGE_BYTES)
        body, is_more = b"", True
        while is_more:
            message = await limited()
            body += message.get("body", b"")
            is_more = message["type"] == "http.request" and message.get("more_body", False)
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, "the message is not JSON") from error
        if not isinstance(values, dict):
            raise RefusedError(400, "the message is no JSON object")
        if "session_hash" in values:
            self._check_tab(browser, str(values["session_hash"]))
        for path in paths_in(values):
            if not is_inside(path, browser.uploads):
                raise RefusedError(403, "this file is not one of this browser's")
        return _replayed(body, receive)

    def _limited(self, headers: Headers, receive: Receive, max_bytes: int) -> Receive:
        """Receive no more than so much, whatever the header promises."""
        reason = (
            f"more than {max_bytes} bytes: start the page with a larger max_upload_gb="
            if max_bytes > MAX_MESSAGE_BYTES
            else f"more than {max_bytes} bytes"
        )
        promised = headers.get("content-length", "0")
        if not promised.isdecimal() or int(promised) > max_bytes:
            raise RefusedError(413, reason)
        received = 0

        async def receiving() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise RefusedError(413, reason)
            return message

        return receiving

    async def _uploaded(self, browser: Browser, request: Request) -> Response:
        """Keep what is sent in a folder of its own, all of it or nothing."""
        limit = self._max_bytes + FORM_BYTES
        receive = self._limited(request.headers, request.receive, limit)
        identity = request.query_params.get("upload_id")
        folder = browser.uploads / secrets.token_hex(8)
        try:
            paths, _, _ = await upload_fn(
                Request(request.scope, receive),
                str(folder),
                self._max_bytes,
                identity,
                upload_progress=file_upload_statuses if identity else None,
            )
            return JSONResponse([str(path) for path in paths])
        except MultiPartException as error:
            shutil.rmtree(folder, ignore_errors=True)
            status = 413 if "maximum allowed size" in error.message else 400
            raise RefusedError(status, error.message) from error
        except HTTPException as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RefusedError(error.status_code, str(error.detail)) from error
        except BaseException as error:  # the browser has gone, or sent too much
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, ClientDisconnect):
                raise RefusedError(400, "the upload was broken off") from error
            if isinstance(error, KeyError | TypeError | ValueError):
                raise RefusedError(400, "the upload is no form with files") from error
            raise

    async def _beat(self, browser: Browser, tab: str, answered: Any) -> None:
        """Hold the connection that a tab keeps while it is open; clean up after the last one."""
        try:
            self._check_tab(browser, tab)
        except RefusedError:
            answered.close()
            raise
        browser.beating[tab] += 1
        try:
            await answered
        finally:
            browser.beating[tab] -= 1
            if browser.beating[tab] <= 0:
                del browser.beating[tab]
                self._close(browser, tab)
            browser.seen = time.monotonic()
            if not browser.beating:
                shutil.rmtree(browser.uploads, ignore_errors=True)

    def _close(self, browser: Browser, tab: str) -> None:
        browser.tabs.discard(tab)
        self._forget(tab)

    def _empty(self, browser: Browser) -> None:
        """Delete all of a browser's."""
        for tab in list(browser.tabs):
            self._close(browser, tab)
        shutil.rmtree(browser.uploads, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what nobody comes back for: idle browsers, and old files of those that stay."""
        for secret, browser in list(self.browsers.items()):
            idle = time.monotonic() - browser.seen
            if not browser.beating and idle > MAX_IDLE_SECONDS:
                del self.browsers[secret]
                self._empty(browser)
                continue
            with suppress(OSError):
                for upload in list(browser.uploads.iterdir()):
                    if time.time() - upload.stat().st_mtime > MAX_AGE_SECONDS:
                        shutil.rmtree(upload, ignore_errors=True)
            for tab in list(browser.tabs):
                folder = self._folder_of(tab)
                with suppress(OSError):
                    if folder and time.time() - folder.stat().st_mtime > MAX_AGE_SECONDS:
                        self._close(browser, tab)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_SWEEPS)
            self.sweep()


def is_inside(path: str, folder: Path) -> bool:
    """Whether a path is below a folder, once all links are followed."""
    try:
        return folder.resolve() in Path(path).resolve().parents
    except (OSError, ValueError, RuntimeError):
        return False


def paths_in(values: object) -> Iterator[str]:
    """The paths of all files that a message of gradio's names."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value:
                yield str(value["path"])
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Receive a message that was read already, and after it whatever comes."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
