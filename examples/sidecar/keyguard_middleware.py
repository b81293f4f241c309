"""KeyGuard for FastAPI and other ASGI applications: copy this file beside the application.

`app.add_middleware(KeyGuardMiddleware)` has the sidecar (`keyguard serve`) decide about each HTTP request and
each WebSocket handshake. Needs httpx.
"""

import asyncio
import logging

import httpx
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

UNAVAILABLE = {
    "type": "about:blank",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "API keys cannot be checked now.",
    "code": "unavailable",
}


class KeyGuardMiddleware:
    def __init__(self, app, sidecar="http://127.0.0.1:8700"):
        self.app = app
        self.sidecar = sidecar
        self.loop = None

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        try:
            verdict = await self.check(scope)
        except httpx.HTTPStatusError as error:
            logging.error("the sidecar at %s refuses to decide: %s", self.sidecar, error.response.text)
            verdict = {"allowed": False, "problem": UNAVAILABLE, "status": 503, "headers": {}}
        except httpx.HTTPError as error:
            logging.error("the sidecar at %s does not respond: %r", self.sidecar, error)
            verdict = {"allowed": False, "problem": UNAVAILABLE, "status": 503, "headers": {}}
        if not verdict["allowed"]:
            problem, status, headers = verdict["problem"], verdict["status"], verdict["headers"]
            refusal = JSONResponse(problem, status, headers, media_type="application/problem+json")
            return await refusal(scope, receive, send)
        scope.setdefault("state", {})["keyguard"] = verdict

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(verdict["headers"])
            await send(message)

        await self.app(scope, receive, send_with_headers)

    async def check(self, scope):
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else None
        # A client on a Unix socket has no address.
        client = scope.get("client")
        response = await self.client().post("/v1/check", json={
            "key": headers.get("x-api-key") or bearer,
            "ip": client[0] if client else "local",
            "client_ip_header": ", ".join(headers.getlist("x-forwarded-for")) or None,
            "method": scope.get("method", "GET"),
            "path": scope["raw_path"].decode("latin-1"),
        })
        return response.raise_for_status().json()

    def client(self):
        # Connections belong to an event loop, and tests run each request in a loop of its own.
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            # Without the proxy of HTTP_PROXY, which would see all keys.
            self.connections = httpx.AsyncClient(base_url=self.sidecar, timeout=1.0, trust_env=False)
            self.loop = loop
        return self.connections
