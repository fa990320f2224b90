"""The Flask application of a health server: which path gives which answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.wrappers import Response as BaseResponse

from shared_sync.health_server import content_negotiation
from shared_sync.health_server.access import METHODS, SAFE_HEADERS, Access, is_action
from shared_sync.health_server.actions.routes import ActionRoutes
from shared_sync.health_server.answers import Answers
from shared_sync.health_server.compression import Body, compress
from shared_sync.health_server.content_negotiation import Format
from shared_sync.health_server.http_log import HttpLog
from shared_sync.health_server.state import HealthState
from shared_sync.health_server.waiting import Busy, CallFailed

PROBES: Final = ("live", "ready", "startup")
_ENDPOINTS: Final = (
    "/health",
    *(f"/health/{probe}" for probe in PROBES),
    "/metrics",
    "/metrics/prometheus",
    "/api/state",
    "/api/history",
)
_SCRIPTS: Final = (
    *("actions.js", "app.js", "ask.js", "chart.js", "charts.js", "checks.js", "dead_letters.js"),
    *("dom.js", "format.js", "group.js", "history.js", "letter.js", "letter_list.js", "letters.js"),
    *("pausing.js", "polling.js", "queue.js", "remedies.js", "rows.js", "search.js", "status.js"),
    *("timeline.js", "values.js"),
)
_PAGE: Final = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    **dict.fromkeys(_SCRIPTS, "text/javascript; charset=utf-8"),
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LONGEST_NAME: Final = 253
"""Characters of a host that are shown; no real name has more."""

_OPEN: Final = frozenset({"index", "page", *PROBES})
"""Endpoints that need no token: the probes, and the page's files, which hold no data."""


def make_app(
    state: HealthState,
    instance_id: str,
    access: Access,
    *,
    details: bool,
    actions: ActionRoutes | None = None,
) -> Flask:
    """Return the application. Any thread may call it."""
    app = Flask(__name__, static_folder=None)
    app.logger = HttpLog(logging.getLogger(__name__))  # type: ignore[assignment]
    # /health/ is answered too, and no path with a redirect.
    app.url_map = Map(strict_slashes=False, merge_slashes=False)
    _Routes(state, instance_id, access, details=details, actions=actions).register(app)
    return app


class _Routes:
    def __init__(
        self,
        state: HealthState,
        instance_id: str,
        access: Access,
        *,
        details: bool,
        actions: ActionRoutes | None,
    ) -> None:
        # Fixed after construction.
        self._state = state
        actions_on = None if actions is None else actions.target
        self._answers = Answers(state, instance_id, details=details, actions_on=actions_on)
        self._instance_id = instance_id
        self._access = access
        self._actions = actions

    def register(self, app: Flask) -> None:
        app.add_url_rule("/", "index", self._index)
        app.add_url_rule("/dashboard/<name>", "page", self._page)
        app.add_url_rule("/health", "health", self._health)
        for probe in PROBES:
            app.add_url_rule(f"/health/{probe}", probe, self._probe)
        app.add_url_rule("/metrics", "metrics", self._metrics)
        app.add_url_rule("/metrics/prometheus", "prometheus", self._prometheus)
        app.add_url_rule("/api/state", "state", self._dashboard)
        app.add_url_rule("/api/history", "history", self._history)
        if self._actions is not None:
            self._actions.register(app)
        app.register_error_handler(HTTPException, self._http_error)
        app.before_request(self._check_host)
        app.before_request(self._check_token)
        app.after_request(self._add_headers)

    # --- for every path ---------------------------------------------------------------------------

    def _check_host(self) -> Response | None:
        """Refuse the dashboard and its data under a name that may be another site's."""
        host = self._access.unknown_host(request)
        if host is None:
            return None
        return self._error(
            f"this page is not served under the name {host[:_LONGEST_NAME]!r}: use an IP address, "
            "or have the name added to allowed_hosts (--allowed-hosts)",
            421,
        )

    def _check_token(self) -> Response | None:
        """Refuse a request that needs the token and has none; a preflight of CORS never has it."""
        needs_token = request.endpoint is not None and request.endpoint not in _OPEN
        if not needs_token or request.method == "OPTIONS" or self._access.is_trusted(request):
            return None
        if self._actions is not None:
            self._actions.note_refusal("it has no token, or a wrong one")
        response = self._error("a token is needed: send it as Authorization: Bearer <token>", 401)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _add_headers(self, response: Response) -> Response:
        headers = response.headers
        for name, value in SAFE_HEADERS.items():
            headers.setdefault(name, value)
        if "Allow" in headers and not is_action(request.path):
            headers["Allow"] = METHODS  # the order of Flask's own changes
        self._access.add_headers(request, response)
        compress(request, response)
        return response

    def _http_error(self, error: HTTPException) -> BaseResponse:
        response = error.get_response()
        response.data = json.dumps({"instance_id": self._instance_id, "error": error.name})
        response.content_type = "application/json"
        return response

    def _error(self, text: str, code: int) -> Response:
        return _json({"instance_id": self._instance_id, "error": text}, code)

    # --- one path each ----------------------------------------------------------------------------

    def _index(self) -> Response:
        if content_negotiation.prefers_html(request.headers.get("Accept")):
            return self._page("index.html")
        return _json({"instance_id": self._instance_id, "endpoints": _ENDPOINTS})

    def _page(self, name: str) -> Response:
        if name not in _PAGE:
            return self._error("Not Found", 404)
        response = _shared(_file(name), _PAGE[name])
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
        return response

    def _health(self) -> Response:
        body, is_well = self._answers.health()
        return _json(body, 200 if is_well else 500)

    def _probe(self) -> Response:
        name = request.path.strip("/").rpartition("/")[2]
        body, succeeds = self._answers.probe(name, with_reasons=self._access.is_trusted(request))
        return _json(body, 200 if succeeds else 503)

    def _metrics(self) -> Response:
        accept = request.headers.get("Accept")
        try:
            form = content_negotiation.choose(accept, request.args.get("format"))
        except content_negotiation.UnknownFormat as error:
            response = self._error(str(error), 400)
            response.vary.add("Accept")
            return response
        return self._metrics_as(form)

    def _prometheus(self) -> Response:
        form = content_negotiation.choose(request.headers.get("Accept"), None)
        return self._metrics_as(Format.PROMETHEUS if form is Format.JSON else form)

    def _metrics_as(self, form: Format) -> Response:
        try:
            if form is Format.JSON:
                response = _json(self._answers.metrics())
            else:
                response = _shared(self._state.rendered_metrics(form), form.content_type)
        except CallFailed as failed:
            response = _json(self._answers.failed_metrics(failed), 500)
        except Busy:
            response = self._error("other requests wait for the same; ask again", 503)
            response.headers["Retry-After"] = "1"
        response.vary.add("Accept")
        return response

    def _dashboard(self) -> Response:
        try:
            return _json(self._answers.dashboard())
        except CallFailed as stopping:
            return self._error(str(stopping), 503)

    def _history(self) -> Response:
        since = request.args.get("since")
        if since is not None and not (since.isascii() and since.isdigit() and len(since) < 16):
            return self._error("since must be the `next` of an earlier answer", 400)
        names = request.args.getlist("figure")
        return _json(self._answers.history(None if since is None else int(since), names))


@cache
def _file(name: str) -> Body:
    return Body((files("shared_sync.health_server") / "dashboard" / name).read_bytes())


def _json(body: Mapping[str, Any], code: int = 200) -> Response:
    return Response(json.dumps(body, allow_nan=False), code, content_type="application/json")


def _shared(body: Body, content_type: str) -> Response:
    response = Response(body.plain, content_type=content_type)
    compress(request, response, body)
    return response
