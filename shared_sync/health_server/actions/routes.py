"""The HTTP side of actions: POST /actions/<name>, for the page alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from flask import Flask, Response, request

from shared_sync.common.guarded import Logger
from shared_sync.errors import (
    ConfigurationError,
    DeadLetterMissing,
    GroupMissing,
    RedisAccessDenied,
    RedisUnavailable,
    SharedSyncError,
)
from shared_sync.health_server import payload
from shared_sync.health_server.access import Access, is_action
from shared_sync.health_server.actions import requests
from shared_sync.health_server.actions.journal import Asker, Journal
from shared_sync.health_server.actions.protocol import Actions
from shared_sync.health_server.actions.requests import ActionRequest, BadRequest
from shared_sync.health_server.actions.runner import ActionRunner, Refused, Unfinished

PATH: Final = "/actions/"

_LONGEST_HEADER: Final = 200
"""Characters of X-Forwarded-For that are logged."""


class ActionRoutes:
    """Answers requests for actions. Any thread may call any method.

    No answer allows a page of another origin to read it, and no preflight is answered, so a browser
    sends no such request for another page at all.
    """

    def __init__(
        self, actions: Actions, runner: ActionRunner, access: Access, logger: Logger, instance: str
    ) -> None:
        # Fixed after construction.
        self._actions = actions
        self._runner = runner
        self._access = access
        self._instance = instance
        self._journal = Journal(logger, stream=actions.stream, group=actions.group)

    def register(self, app: Flask) -> None:
        """Add the path to an application, which checks host and token."""
        app.add_url_rule(
            f"{PATH}<name>",
            "action",
            self._act,
            methods=["POST"],
            provide_automatic_options=False,
        )

    @property
    def target(self) -> dict[str, str]:
        """The stream and group that the actions are about, as the page shows them."""
        return {"stream": self._actions.stream, "group": self._actions.group}

    def note_refusal(self, reason: str) -> None:
        """Log that the request at hand was refused, if it asks for an action."""
        if is_action(request.path):
            self._journal.refused(request.path.removeprefix(PATH), _asker(), reason)

    def _act(self, name: str) -> Response:
        problem = self._access.why_no_action(request)
        if problem is not None:
            self.note_refusal(problem)
            return self._error(problem, 403)
        if request.mimetype != "application/json":
            return self._error("send the body as Content-Type: application/json", 415)
        try:
            asked = requests.parse(name, request.get_data())
        except KeyError:
            return self._error(f"there is no action {name[:40]!r}", 404)
        except BadRequest as bad:
            return self._error(str(bad), 400)
        return self._carry_out(asked, _asker())

    def _carry_out(self, asked: ActionRequest, asker: Asker) -> Response:
        try:
            answer = self._runner.call(partial(self._call, asked, asker))
        except Refused as refused:
            self._journal.refused(asked.name, asker, str(refused))
            return self._error(str(refused), 503)
        except Unfinished:
            self._journal.unfinished(asked, asker)
            seconds = self._runner.limit_seconds
            doubt = "the action may still be carried out" if asked.changes else "ask again"
            return self._error(f"no result within {seconds:g} s; {doubt}", 504)
        except Exception as error:  # noqa: BLE001 - it was logged where it was raised
            return self._error(*_explain(error))
        return _json(answer, 200)

    def _call(self, asked: ActionRequest, asker: Asker) -> dict[str, Any]:
        """Call the method, and log what became of it. In the runner's thread."""
        try:
            returned = getattr(self._actions, asked.name)(**asked.arguments)
        except Exception as error:
            self._journal.failed(asked, asker, error)
            raise
        self._journal.done(asked, asker, returned)
        return payload.public_mapping(returned, details=True)

    def _error(self, text: str, code: int) -> Response:
        error = payload.public(text, details=True)
        return _json({"instance_id": self._instance, "error": error}, code)


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to answer after an error, and the HTTP status."""
    if isinstance(error, (DeadLetterMissing, GroupMissing)):
        return str(error), 404
    if isinstance(error, ConfigurationError):
        return str(error), 400
    if isinstance(error, RedisUnavailable) and not isinstance(error, RedisAccessDenied):
        return str(error), 503
    if isinstance(error, SharedSyncError):
        return str(error), 502
    return f"the action failed ({type(error).__name__}); the log says why", 500


def _asker() -> Asker:
    claimed = ", ".join(request.headers.getlist("X-Forwarded-For"))
    return Asker(request.remote_addr or "?", claimed[:_LONGEST_HEADER])


def _json(body: Mapping[str, Any], code: int) -> Response:
    return Response(json.dumps(body, allow_nan=False), code, content_type="application/json")
