"""The HTTP face: paths, headers and statuses of the Open Inference Protocol v2; computing is `dispatch`'s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from edge_agent import AGENT_VERSION
from edge_agent.front.dispatch import Bounds, Dispatcher
from edge_agent.front.errors import (
    BadRequest,
    NotFound,
    NotServing,
    RequestError,
    SlowBody,
    TooLarge,
    UnsupportedEncoding,
)
from edge_agent.front.metrics import FrontMetrics
from edge_agent.front.protocol import model_metadata, parse_infer
from edge_agent.front.routes import ModelRoute

log = structlog.get_logger()

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
DIGEST_HEADER = "holdfast-digest"
ENCODINGS = ("", "identity", "gzip", "deflate")
CODINGS = {"gzip": web.ContentCoding.gzip, "deflate": web.ContentCoding.deflate}  # deflate is zlib's format
COMPRESSED_BYTES_MIN = 1 << 10  # what fits a packet is not worth the work
COMPRESSED_INLINE_BYTES_MAX = 32 << 10  # more is compressed in a thread: 1 ms would hold up everybody


class HttpFace:
    """Handlers of the web application."""

    def __init__(self, dispatcher: Dispatcher, bounds: Bounds, metrics: FrontMetrics, device_id: str) -> None:
        self._dispatcher = dispatcher
        self._bounds = bounds
        self._metrics = metrics
        self._device_id = device_id

    def application(self) -> web.Application:
        """The aiohttp application; bodies are bounded after decompression."""
        app = web.Application(client_max_size=self._bounds.body_bytes_max, middlewares=[_errors_as_json])
        for tail in ("", "/versions/{version}"):
            app.router.add_post(f"/v2/models/{{model}}{tail}/infer", self._infer, expect_handler=self._expect)
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._server_ready)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/v2", self._server)
        for tail in ("", "/versions/{version}"):
            app.router.add_get(f"/v2/models/{{model}}{tail}", self._model)
            app.router.add_get(f"/v2/models/{{model}}{tail}/ready", self._model_ready)
        return app

    def _route(self, request: web.Request) -> tuple[str, ModelRoute]:
        model = request.match_info["model"]
        route = self._dispatcher.routes.models.get(model)
        if route is None:
            here = ", ".join(self._dispatcher.routes.models) or "none"
            raise NotFound(f"there is no model {model[:80]!r} (there are: {here})")
        version = request.match_info.get("version")
        if version is not None and version != route.version:
            raise NotFound(f"version {version[:80]!r} of {model} does not serve, {route.version or 'none'} does")
        return model, route

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        started_s = time.perf_counter()
        model, route = self._route(request)
        status, version = 500, route.version
        try:
            body = await self._read_body(request)
            if route.digest is None:
                raise NotServing(f"nothing serves {model} now{f': {route.reason}' if route.reason else ''}")
            parsed = parse_infer(body, _json_length(request), route, self._bounds.body_bytes_max)
            any_version = "version" not in request.match_info
            content, json_bytes, served = await self._dispatcher.infer(model, route, parsed, any_version=any_version)
            status, version = 200, served.version
            return _infer_response(request, content, json_bytes, served)
        except RequestError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = 499
            raise
        finally:
            self._metrics.requests.labels(model, version, str(status)).inc()
            self._metrics.latency.labels(model).observe(time.perf_counter() - started_s)

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        """Expect: 100-continue. A body that would be refused for its length is not sent at all."""
        if request.headers.get("Expect", "").lower() != "100-continue":
            return _error_response(417, "the only expectation that can be met is 100-continue", None)
        if (request.content_length or 0) <= self._bounds.body_bytes_max:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        return None

    async def _read_body(self, request: web.Request) -> bytes:
        """Raises SlowBody, TooLarge (as soon as that is known), UnsupportedEncoding or BadRequest."""
        encoding = request.headers.get("Content-Encoding", "").lower()
        if encoding not in ENCODINGS:
            raise UnsupportedEncoding(f"Content-Encoding {encoding[:40]!r} is not gzip or deflate")
        bytes_max = self._bounds.body_bytes_max
        too_large = TooLarge(f"the body is larger than {bytes_max} bytes")
        if (request.content_length or 0) > bytes_max:
            raise too_large
        try:
            async with asyncio.timeout(self._bounds.deadline_s):
                return await request.read()
        except TimeoutError:
            raise SlowBody(f"the body did not arrive within {self._bounds.deadline_s:g} s") from None
        except web.HTTPRequestEntityTooLarge:
            raise too_large from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError, ValueError) as error:
            raise BadRequest(f"the body cannot be read: {error}") from error

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _server_ready(self, _: web.Request) -> web.Response:
        ready = self._all_ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    def _all_ready(self) -> bool:
        models = self._dispatcher.routes.models
        return bool(models) and all(self._dispatcher.ready(model) for model in models)

    async def _health(self, _: web.Request) -> web.Response:
        """For the container's check: 200 while every model has a live worker."""
        models = {
            model: {
                "ready": self._dispatcher.ready(model),
                "state": route.state,
                "version": route.version or None,
                "digest": route.digest,
                "reason": route.reason,
            }
            for model, route in self._dispatcher.routes.models.items()
        }
        healthy = self._all_ready()
        document = {"healthy": healthy, "device_id": self._device_id, "models": models}
        return web.json_response(document, status=200 if healthy else 503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _server(self, _: web.Request) -> web.Response:
        document = {"name": "holdfast", "version": AGENT_VERSION, "extensions": ["binary_tensor_data"]}
        return web.json_response(document)

    async def _model(self, request: web.Request) -> web.Response:
        model, route = self._route(request)
        return web.json_response(model_metadata(model, route))

    async def _model_ready(self, request: web.Request) -> web.Response:
        model, _ = self._route(request)
        ready = self._dispatcher.ready(model)
        return web.json_response({"name": model, "ready": ready}, status=200 if ready else 503)


def _infer_response(
    request: web.Request, content: bytes, json_bytes: int | None, route: ModelRoute
) -> web.StreamResponse:
    headers = {DIGEST_HEADER: route.digest or ""}
    if json_bytes is None:
        headers["Content-Type"] = "application/json"
    else:
        headers["Content-Type"] = "application/octet-stream"
        headers[JSON_LENGTH_HEADER] = str(json_bytes)
    response = web.Response(body=content, headers=headers, zlib_executor_size=COMPRESSED_INLINE_BYTES_MAX)
    coding = wanted_coding(request.headers.get("Accept-Encoding", ""))
    if coding is not None and len(content) >= COMPRESSED_BYTES_MIN:
        response.enable_compression(coding)
    return response


def wanted_coding(accepted: str) -> web.ContentCoding | None:
    """The first coding of an Accept-Encoding header that we have and the client does not forbid (q=0)."""
    for entry in accepted.lower().split(","):
        name, _, weight = entry.replace(" ", "").partition(";q=")
        if name in CODINGS and (not weight or weight.strip("0.")):
            return CODINGS[name]
    return None


def _json_length(request: web.Request) -> int | None:
    text = request.headers.get(JSON_LENGTH_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadRequest(f"{JSON_LENGTH_HEADER} is {text[:40]!r}, not a number")
    return int(text)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error has the protocol's body {"error": text} and one line of text."""
    try:
        return await handler(request)
    except RequestError as error:
        return _error_response(error.status, error.text, error.retry_after_s)
    except web.HTTPException as error:
        return _http_error_response(request, error)
    except Exception as error:  # the last line of defence: a bug of ours answers 500 and is logged
        log.error("front_bug", path=request.path, exc_info=error)
        return _error_response(500, "internal error", None)


def _http_error_response(request: web.Request, error: web.HTTPException) -> web.Response:
    text = f"{request.method} {request.path[:80]!r}: {error.reason}"
    response = _error_response(error.status, text, None)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _error_response(status: int, text: str, retry_after_s: int | None) -> web.Response:
    headers: dict[str, Any] = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
    return web.json_response({"error": text}, status=status, headers=headers)
