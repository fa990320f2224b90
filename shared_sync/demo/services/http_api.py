"""The HTTP side of the gateway: paths, errors and headers.

    POST   /api/jobs      a WAV file (16-bit PCM) as the body; answers {"job": "..."}
    GET    /api/jobs/ID   what is known of the job; ?after=VERSION waits until there is more
    DELETE /api/jobs/ID   cancel the job
    GET    /              a page with a microphone

An error is a JSON object with the text `error`. The status 503 has the header Retry-After.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from flask import Flask, Response, abort, jsonify, request, send_from_directory
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from shared_sync.demo.speech import UnsupportedAudio, wav_seconds
from shared_sync.errors import ConsumerStateError, QueueFull, RedisUnavailable, Reject
from shared_sync.metrics import WorkerMetrics

PAGE: Final = Path(__file__).with_name("page")
WAV_TYPES: Final = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
LONGEST_WAIT_SECONDS: Final = 20.0
MOST_SECONDS: Final = 60.0
"""The longest recording."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Jobs(Protocol):
    """What the paths need of the gateway."""

    def submit(self, client: str, wav: bytes) -> str: ...

    def look(self, name: str, after: str | None, seconds: float) -> dict[str, Any] | None: ...

    def cancel(self, name: str) -> bool: ...


def make_app(jobs: Jobs, metrics: WorkerMetrics, max_upload_bytes: int) -> Flask:
    """Return the WSGI application. A larger upload gets the answer 413."""
    app = Flask("gateway", static_folder=str(PAGE), static_url_path="/static")
    app.config["MAX_CONTENT_LENGTH"] = max_upload_bytes

    @app.get("/")
    def page() -> Response:
        return send_from_directory(PAGE, "index.html")

    @app.post("/api/jobs")
    def submit() -> tuple[Response, int, dict[str, str]]:
        # A page of another site cannot send this type without asking first, which is refused.
        if request.mimetype not in WAV_TYPES:
            abort(415, "send the bytes of a WAV file, with the header Content-Type: audio/wav")
        try:
            wav = request.get_data(cache=False)
        except RequestEntityTooLarge:
            abort(413, f"send at most {max_upload_bytes / 1e6:g} MB: a shorter recording")
        check_audio(wav)
        client = request.headers.get("X-Client-Id") or request.remote_addr or ""
        name = jobs.submit(client[:64], wav)
        return jsonify(job=name), 202, {"Location": f"/api/jobs/{name}"}

    @app.get("/api/jobs/<name>")
    def look(name: str) -> Response:
        seconds = request.args.get("wait", LONGEST_WAIT_SECONDS, type=float)
        seconds = min(max(0.0, seconds), LONGEST_WAIT_SECONDS)  # nan becomes 0.0
        return jsonify(known(jobs.look(name, request.args.get("after"), seconds)))

    @app.delete("/api/jobs/<name>")
    def cancel(name: str) -> Response:
        if not jobs.cancel(name):
            known(None)
        return jsonify(known(jobs.look(name, None, 0)))

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> tuple[Response, int]:
        metrics.increment_counter("errors")
        return jsonify(error=error.description), error.code or 500

    @app.errorhandler(QueueFull)
    def full(_: QueueFull) -> tuple[Response, int, dict[str, str]]:
        return unavailable("too many recordings are waiting; send it again in some seconds", 5)

    @app.errorhandler(RedisUnavailable)
    @app.errorhandler(ConsumerStateError)
    def away(_: Exception) -> tuple[Response, int, dict[str, str]]:
        return unavailable("the service is not available; send it again in some seconds", 2)

    def unavailable(text: str, seconds: int) -> tuple[Response, int, dict[str, str]]:
        metrics.increment_counter("errors")
        return jsonify(error=text), 503, {"Retry-After": str(seconds)}

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    return app


def check_audio(wav: bytes) -> None:
    """Answer the request with an error if the recognizer cannot read the upload."""
    if not wav:
        abort(400, "the request has no body: send the bytes of a WAV file")
    remedy = "convert it with: ffmpeg -i INPUT -ar 16000 -ac 1 -c:a pcm_s16le speech.wav"
    try:
        seconds = wav_seconds(wav)
    except UnsupportedAudio as error:
        abort(415, f"{error}; {remedy}")
    except Reject as error:
        abort(400, f"{error}; send the whole file, or {remedy}")
    if seconds > MOST_SECONDS:
        abort(413, f"{seconds:.0f} s of audio; send at most {MOST_SECONDS:.0f} s at a time")


def known(state: dict[str, Any] | None) -> dict[str, Any]:
    """Return the state of a job that exists; answer the request with 404 if it does not."""
    if state is None:
        abort(404, "no such job: it is older than 15 minutes, or the gateway was restarted")
    return state
