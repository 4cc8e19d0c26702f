"""The HTTP service as a Flask application."""

import time
from collections.abc import Callable

from flask import Flask, Response, g, request

from backend import auth, errors, label_studio_routes, operations
from backend.follower import AskChampions
from backend.label_studio_watch import LabelStudioWatch
from backend.memories import Memories
from backend.metrics import Metrics
from backend.outbox import Sink
from backend.service import build_service
from ebseg.label_studio.pipeline import Model
from training.settings import Settings


def create_app(
    settings: Settings,
    *,
    load: Callable[[], Model] | None = None,
    champions: AskChampions | None = None,
    connect: Callable[[], Sink] | None = None,
    watch: LabelStudioWatch | None = None,
    memories: Memories | None = None,
) -> Flask:
    """Build the application and begin to load its model in the background.

    ``load`` and the others stand for what the settings name, as in build_service.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    service = build_service(settings, load, champions, connect, watch, memories)
    app.extensions["ebseg"] = service
    errors.install(app)
    _measure_requests(app, service.metrics)
    if settings.basic_auth_user is not None and settings.basic_auth_password is not None:
        auth.require_basic_auth(
            app, settings.basic_auth_user, settings.basic_auth_password.get_secret_value()
        )
    app.register_blueprint(operations.blueprint(service))
    app.register_blueprint(label_studio_routes.blueprint(service))
    return app


def _measure_requests(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def _begin() -> None:
        g.begun = time.monotonic()

    @app.after_request
    def _end(response: Response) -> Response:
        path = request.url_rule.rule if request.url_rule else "unknown"  # never what a stranger typed
        metrics.requests.labels(path, response.status_code).inc()
        metrics.request_seconds.labels(path).observe(time.monotonic() - g.begun)
        return response
