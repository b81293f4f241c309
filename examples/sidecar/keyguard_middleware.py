"""KeyGuard for FastAPI and other ASGI applications: copy this file beside the application.

`app.add_middleware(KeyGuardMiddleware)` has the sidecar (`keyguard serve`) decide about each HTTP request and
each WebSocket handshake. Needs httpx.
"""

import asyncio
import logging
from urllib.parse import quote

import httpx
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse


class KeyGuardMiddleware:
    """`client_ip_header` is that of the policy: the field in which trusted proxies report the client."""

    def __init__(self, app, sidecar="http://127.0.0.1:8700", client_ip_header="x-forwarded-for"):
        self.app = app
        self.sidecar = sidecar
        self.client_ip_header = client_ip_header
        self.loop = None

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        try:
            verdict = await self.decide(scope)
        except (httpx.HTTPError, ValueError) as error:
            # The text of the error has neither the request nor the response.
            logging.error("no decision by the sidecar at %s: %r", self.sidecar, error)
            verdict = refusal(503, "unavailable", "API keys cannot be checked now.")
        if not verdict["allowed"]:
            problem, status, headers = verdict["problem"], verdict["status"], verdict["headers"]
            response = JSONResponse(problem, status, headers, media_type="application/problem+json")
            return await response(scope, receive, send)
        scope.setdefault("state", {})["keyguard"] = verdict

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                MutableHeaders(scope=message).update(verdict["headers"])
            await send(message)

        await self.app(scope, receive, send_with_headers)

    async def decide(self, scope):
        path = routed_path(scope)
        if not path.startswith("/"):
            return refusal(400, "bad_request", "The target of the request is not a path.")
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else None
        # A client on a Unix socket has no address.
        client = scope.get("client")
        response = await self.client().post("/v1/check", json={
            "key": ", ".join(headers.getlist("x-api-key")) or bearer,
            "ip": client[0] if client else "local",
            "client_ip_header": ", ".join(headers.getlist(self.client_ip_header)) or None,
            "method": scope.get("method", "GET"),
            "path": path,
        })
        verdict = response.raise_for_status().json()
        if not isinstance(verdict, dict) or not isinstance(verdict.get("allowed"), bool):
            raise ValueError("the response is not a decision")
        return verdict

    def client(self):
        # Connections belong to an event loop, and tests run each request in a loop of its own.
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            # Without the proxy of HTTP_PROXY, which would see all keys.
            self.connections = httpx.AsyncClient(base_url=self.sidecar, timeout=1.0, trust_env=False)
            self.loop = loop
        return self.connections


def routed_path(scope):
    """The path by which the application chooses a route: without its root path, as Starlette does it."""
    root = scope.get("app_root_path", scope.get("root_path", ""))
    path = scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):
        return quote(path[len(root):]) or "/"
    return scope["raw_path"].decode("latin-1")


def refusal(status, code, detail):
    problem = {"type": "about:blank", "status": status, "detail": detail, "code": code}
    return {"allowed": False, "status": status, "headers": {}, "problem": problem}
