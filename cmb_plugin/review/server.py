"""The server that a browser on this machine talks to: a page, the scans of a session, and decisions one by one.

Only programs that know the token in the address are answered. A page of another origin is not, even if it does, and
names in a request never become paths: cases, images and files of the page are looked up in lists.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cmb_plugin.errors import UserError

from .decisions import BadEventError, StaleRevisionError, checked_point
from .preview import LesionPreview

if TYPE_CHECKING:
    from .decisions import Review
    from .session import ReviewSession

HOSTS = ("127.0.0.1", "localhost")
MOST_BYTES = 16_384  # of a decision
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
NIIVUE = "niivue.umd.js"
HEADERS = {
    # NiiVue compiles no code at run time, but unpacks scans in workers that it makes itself, and draws from blobs.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def build_app(session: ReviewSession, token: str) -> ASGIApp:
    """The application.

    Args:
        session: what is reviewed.
        token: first part of every address that is answered.
    """
    names = list(session.cases)
    preview = LesionPreview(session)
    parts = _parts()
    writing = asyncio.Lock()  # decisions come one after another

    def case_of(request: Request) -> str:
        """The case that the address names by its number."""
        number = request.path_params["number"]
        if number >= len(names):
            raise HTTPException(404)
        return names[number]

    async def page(_: Request) -> Response:
        """The page itself."""
        return Response(parts["index.html"].read_bytes(), media_type="text/html")

    async def static(request: Request) -> Response:
        """One of the files that the page is made of."""
        name = request.path_params["name"]
        if name not in parts:
            raise HTTPException(404)
        return Response(await run_in_threadpool(parts[name].read_bytes), media_type=TYPES[Path(name).suffix])

    async def listing(_: Request) -> Response:
        """All cases, a line each."""
        cases = await run_in_threadpool(session.listing)
        return JSONResponse({"title": session.title, "reader": session.store.reader, "cases": cases})

    async def describe(request: Request) -> Response:
        """One case with its candidates and decisions."""
        return JSONResponse(await run_in_threadpool(session.describe, case_of(request)))

    async def image(request: Request) -> Response:
        """A scan, as its file is."""
        path = session.images(case_of(request)).get(request.path_params["modality"])
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type="application/octet-stream")

    async def grown(request: Request) -> Response:
        """How a lesion would be drawn that is added at a point."""
        case_id = case_of(request)
        try:
            numbers = [float(request.query_params[axis]) for axis in "zyx"]
            point = checked_point(numbers, session.scope(case_id).shape)
        except (KeyError, ValueError) as error:
            raise HTTPException(400, str(error) or "z, y, x are numbers inside the scan") from None
        return JSONResponse(await run_in_threadpool(preview.grow, case_id, point))

    async def decide(request: Request) -> Response:
        """Takes a decision, and answers when it is on the disk."""
        case_id = case_of(request)
        try:
            content = json.loads(await _body(request))
            event, revision = content["event"], content["revision"]
            if not isinstance(event, dict) or type(revision) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HTTPException(400, 'send {"revision": number, "event": {...}}') from None
        async with writing:
            key, scope = await run_in_threadpool(lambda: (session.key(case_id), session.scope(case_id)))
            try:
                review = await run_in_threadpool(session.store.append, case_id, key, event, revision, scope)
            except StaleRevisionError:
                state = (await run_in_threadpool(session.review, case_id)).state()
                return JSONResponse({"error": "decided elsewhere meanwhile", "state": state}, status_code=409)
            except BadEventError as error:
                raise HTTPException(400, str(error)) from None
        return JSONResponse({"state": review.state()})

    async def problem(_: Request, error: Exception) -> Response:
        """What is wrong with a request, as JSON."""
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, status_code=error.status_code)

    async def unreadable(_: Request, error: Exception) -> Response:
        """What is wrong with a case's files, as JSON."""
        return JSONResponse({"error": str(error)}, status_code=422)

    base = f"/{token}"

    async def to_page(_: Request) -> Response:
        """The address without the slash at its end."""
        return RedirectResponse(f"{base}/")

    routes = [
        Route(base, to_page),
        Route(f"{base}/", page),
        Route(f"{base}/api/cases", listing),
        Route(f"{base}/api/cases/{{number:int}}", describe),
        Route(f"{base}/api/cases/{{number:int}}/images/{{modality:int}}/{{name:str}}", image),
        Route(f"{base}/api/cases/{{number:int}}/grown", grown),
        Route(f"{base}/api/cases/{{number:int}}/events", decide, methods=["POST"]),
        Route(f"{base}/{{name:str}}", static),
    ]
    return _Guard(Starlette(routes=routes, exception_handlers={HTTPException: problem, UserError: unreadable}), token)


class _Guard:
    """Lets through what comes from this machine's own page, and adds the headers that browsers heed."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal:
            response = JSONResponse({"error": refusal}, status_code=403, headers=HEADERS)
            await response(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            """Sends an answer on with the headers."""
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _refusal(self, request: Request) -> str:
        """Why a request is not answered; empty where it is."""
        host, _, port = request.headers.get("host", "").rpartition(":")
        if host not in HOSTS or not port.isdecimal():
            return "unknown host"  # another name that leads here (DNS rebinding)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}:{port}":
            return "another origin"
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "another site"
        given = request.url.path.split("/")[1]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return "wrong token"
        return ""


async def _body(request: Request) -> bytes:
    """The body of a decision, refused as soon as it is too large."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "send application/json")
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise HTTPException(413, f"at most {MOST_BYTES} bytes")
    except ClientDisconnect:
        raise HTTPException(400, "cut off") from None
    return body


def _parts() -> dict[str, Any]:
    """The files that the page is made of, by name: our own, and NiiVue, which nilearn bundles."""
    import nilearn

    own = {
        path.name: path for path in (files("cmb_plugin.review") / "static").iterdir() if Path(path.name).suffix in TYPES
    }
    return {**own, NIIVUE: Path(nilearn.__file__).parent / "_assets" / "js" / NIIVUE}


def serve(session: ReviewSession, port: int = 0, announce: Callable[[str], None] = print) -> list[Review]:
    """Serves a session on 127.0.0.1 until Ctrl-C, and then writes ``decisions.tsv``.

    Args:
        session: what is reviewed.
        port: 0 takes any that is free.
        announce: is given the address.

    Returns:
        what is decided about each case in the end.
    """
    import socket

    import uvicorn

    token = new_token()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()  # so that who opens the address at once waits instead of being refused
    announce(f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/")
    config = uvicorn.Config(build_app(session, token), log_level="warning", server_header=False, access_log=False)
    try:
        with suppress(KeyboardInterrupt):  # as it is meant to end
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        reviews = []
        for case_id in session.cases:
            with suppress(UserError):  # the listing named it
                reviews.append(session.review(case_id))
        session.store.write_log()
    return reviews
