"""Label Studio's calls to an ML backend. A route parses, calls a plain function, answers."""

import json
from typing import Any

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel, Field

from backend.errors import error_response
from backend.label_studio_input import read_label_config
from backend.service import Service

_DRAIN_BYTES = 1 << 16


class SetupRequest(BaseModel):
    """What /setup reads of Label Studio's body."""

    label_config: str | None = Field(default=None, alias="schema")


class PredictParams(BaseModel):
    """Part of a /predict body; ``context`` is sent by smart tools."""

    context: dict[str, Any] | None = None


class PredictRequest(BaseModel):
    """What /predict reads of Label Studio's body."""

    tasks: list[Any]
    label_config: str
    params: PredictParams | None = None


def blueprint(service: Service) -> Blueprint:
    """Make the routes."""
    routes = Blueprint("label_studio", __name__)
    model = service.model

    @routes.post("/setup")
    def setup() -> Response:
        """Give the model's version, at once; an error status for what would make /predict fail."""
        body = SetupRequest.model_validate_json(request.get_data())
        if model.failure:
            return error_response(503, model.failure)
        if body.label_config:
            read_label_config(body.label_config)
        return jsonify(model_version=model.version)

    @routes.post("/predict")
    def predict() -> Response:
        """Give a prediction for each task."""
        body = PredictRequest.model_validate_json(request.get_data())
        context = body.params.context if body.params else None
        results = service.predict(body.tasks, body.label_config, context)
        # Task by task: encoding hundreds of masks in one call would hold up every other thread for seconds.
        encoded = ", ".join([json.dumps(result) for result in results])
        return Response(f'{{"results": [{encoded}]}}', mimetype="application/json")

    @routes.get("/versions")
    def versions() -> Response:
        """List the versions that can be served."""
        return jsonify(versions=[model.version])

    @routes.post("/webhook")
    def webhook() -> Response:
        """Acknowledge an event. Its body may come from anyone: it is read to its end and thrown away."""
        while request.stream.read(_DRAIN_BYTES):
            pass
        return jsonify(status="acknowledged")

    @routes.post("/train")
    def train() -> Response:
        """Tell servers before 1.5, which train with this call, that there is no training here."""
        return error_response(501, "this backend pre-labels; it does not train on request")

    return routes
