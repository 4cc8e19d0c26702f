"""Routes for operators: is it alive, can it predict, how much has it done."""

from flask import Blueprint, Response, jsonify, render_template
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from backend.metrics import TaskOutcome
from backend.overview import overview
from backend.service import Service
from training.queue.outcomes import Topic


def blueprint(service: Service) -> Blueprint:
    """Make the routes."""
    routes = Blueprint("operations", __name__)
    model = service.model

    @routes.get("/health")
    def health() -> Response:
        """Say that the process is alive; never touches the model (Label Studio waits for 1 s)."""
        return jsonify(status="UP")

    @routes.get("/ready")
    def ready() -> tuple[Response, int]:
        """Answer 200 once the model can predict, else 503 with the reason."""
        current = model.current()
        if current.ready:
            told = {"hostname": service.hostname} if service.hostname else {}
            return jsonify(status="ready", model_version=current.version, **told), 200
        if current.failure:
            return jsonify(status="failed", error=current.failure), 503
        return jsonify(status="loading"), 503

    @routes.get("/metrics")
    def metrics() -> Response:
        """Answer in Prometheus' text format."""
        service.metrics.model_ready.set(model.ready)
        service.metrics.hints_waiting.set(service.outbox.waiting if service.outbox else 0)
        return Response(generate_latest(service.metrics.registry), content_type=CONTENT_TYPE_LATEST)

    @routes.get("/")
    def status_page() -> str:
        """Show people the model and what became of the tasks."""
        return render_template(
            "status.html",
            model=service.settings.model,
            current=model.current(),
            follower=service.follower,
            outbox=service.outbox,
            watch=service.watch,
            projects=overview(service),
            topics=Topic,
            counts={outcome.value: service.metrics.count(outcome) for outcome in TaskOutcome},
            label_studio_url=service.settings.label_studio_url,
        )

    return routes
