"""Label Studio's calls to an ML backend. A route parses, calls a plain function, answers."""

import json
import logging
from typing import Any

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel, Field

from backend.errors import error_response
from backend.service import Service
from backend.webhook_events import Action, Event, read_event, read_project

MOST_TASKS = 10_000
"""Tasks of a request; each costs a moment even if it is none. Label Studio sends what was selected."""

logger = logging.getLogger(__name__)


class SetupRequest(BaseModel):
    """What /setup reads of Label Studio's body."""

    label_config: str | None = Field(default=None, alias="schema")
    project: Any = None
    hostname: Any = None


class PredictParams(BaseModel):
    """Part of a /predict body; ``context`` is sent by smart tools."""

    context: dict[str, Any] | None = None


class PredictRequest(BaseModel):
    """What /predict reads of Label Studio's body."""

    tasks: list[Any]
    label_config: str
    params: PredictParams | None = None
    project: Any = None


class JobRequest(BaseModel):
    """What /job_status reads of a body or, with GET, of the address."""

    job: str = Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")


def blueprint(service: Service) -> Blueprint:
    """Make the routes."""
    routes = Blueprint("label_studio", __name__)

    @routes.post("/setup")
    def setup() -> Response:
        """Give the version of its predictions, at once; an error status for what would make /predict fail.

        ``problems``, which Label Studio does not show, say what of the label config is not served.
        """
        body = SetupRequest.model_validate_json(request.get_data())
        service.note_hostname(body.hostname)
        told = service.setup(body.label_config, read_project(body.project))
        problems = {"problems": told.problems} if told.problems else {}
        return jsonify(model_version=told.version, **problems)

    @routes.post("/predict")
    def predict() -> Response:
        """Give a prediction for each task."""
        body = PredictRequest.model_validate_json(request.get_data())
        if len(body.tasks) > MOST_TASKS:
            return error_response(
                400,
                f"{len(body.tasks)} tasks in one request are more than {MOST_TASKS}; select fewer tasks, or "
                "have workers predict the whole project (ebseg label)",
            )
        context = body.params.context if body.params else None
        results = service.predict(body.tasks, body.label_config, context, read_project(body.project))
        # Task by task: encoding hundreds of masks in one call would hold up every other thread for seconds.
        encoded = ", ".join([json.dumps(result) for result in results])
        return Response(f'{{"results": [{encoded}]}}', mimetype="application/json")

    @routes.get("/versions")
    def versions() -> Response:
        """List the versions that can be served."""
        return jsonify(versions=service.versions())

    _add_learning(routes, service)
    return routes


def _add_learning(routes: Blueprint, service: Service) -> None:
    @routes.post("/webhook")
    def webhook() -> Response:
        """Take an event as a hint, whoever sent it and whatever else its body says; answer at once."""
        event = read_event(request.stream)
        taken = service.note_event(event)
        return jsonify(status="ok" if taken and event.forced else "acknowledged")

    @routes.post("/train")
    def train() -> Response:
        """Take the order to train of servers before 1.5, which send all annotations with it, as a hint."""
        project = read_event(request.stream).project
        if service.outbox is None:
            return error_response(501, "this backend pre-labels; it does not train on request")
        if not service.note_event(Event(Action.START_TRAINING, project)):
            return error_response(501, "the request names no project to train for")
        return jsonify(status="ok")

    @routes.route("/job_status", methods=["GET", "POST"])
    def job_status() -> Response:
        """Tell how a job of the learning loop fares."""
        if service.outbox is None:
            return error_response(501, "this backend pre-labels; it has no jobs")
        job = _asked_job()
        try:
            status = service.outbox.job_status(job)
        except Exception as error:
            logger.error("the state of a job cannot be told: %s: %s", type(error).__name__, error)
            return error_response(503, "the learning loop cannot be reached; the service's log says why")
        if status is None:
            return error_response(404, f"no job {job}")
        return jsonify({"job": job, **status})


def _asked_job() -> str:
    body = request.get_data()
    if body:
        return JobRequest.model_validate_json(body).job
    return JobRequest.model_validate(request.args.to_dict()).job
