"""Label Studio as the learning loop sees it: every call has a time limit, and waits out a short absence."""

import json
import ssl
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.request_options import RequestOptions

from ebseg.errors import EBSegError, Outage, Refused, TokenRefused
from ebseg.label_studio.server import TOKEN_REMEDY, Server, server_address, shown
from training.settings import Settings

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds for an answer: a page of tasks takes a busy server that has large masks a while."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between tries: the first, and what they grow to."""

PAGE_SIZE = 100
"""Tasks a page. Label Studio loads all their annotations and predictions, whether it sends them or not."""

_NOT_CONNECTED = ("DI", "ER")  # its states of a model: disconnected, error
_TRY_AGAIN = (408, 429)  # and everything from 500 on
_NOT_IT = "what answers there is not Label Studio"  # a proxy's page, say
OPTIONS = RequestOptions(max_retries=0)  # the SDK's own tries would send a prediction twice

T = TypeVar("T")


class LabelStudioUnavailable(Outage):
    """Label Studio does not answer, or says that it cannot now, and our patience is over."""


class NotInLabelStudio(EBSegError):
    """A project, task or prediction is not in Label Studio, or not any more."""


@dataclass(frozen=True)
class LabelStudioProject:
    """A project.

    ``model_version``: the one whose scores the Data Manager shows. ``predictions``: how many there are.
    """

    id: int
    title: str
    label_config: str
    model_version: str | None
    predictions: int = 0


@dataclass(frozen=True)
class LabelStudioTask:
    """A task without its annotations.

    ``data``: as it was imported, addresses in cloud storages included. ``revision`` changes whenever the
    task, its annotations or its predictions do.
    """

    id: int
    data: dict[str, Any]
    revision: str


@dataclass(frozen=True)
class LabelStudioAnnotation:
    """What a person submitted. ``parent_prediction``: id of the prediction that was corrected."""

    id: int
    updated_at: str
    ground_truth: bool
    result: list[dict[str, Any]]
    parent_prediction: int | None


@dataclass(frozen=True)
class LabelStudioPrediction:
    """A prediction without its masks. ``version``: of its model; ``empty``: whether it has no region."""

    id: int
    version: str
    empty: bool


@dataclass(frozen=True)
class LabelStudioBackend:
    """A model that is connected to a project.

    ``connected``: whether it answered Label Studio just now, to /health and to /setup. ``error``: what it
    answered instead, or empty where it did not. ``version``: of its model, as it said last.
    """

    url: str
    title: str
    connected: bool
    error: str
    version: str


@cache
def _certificates() -> ssl.SSLContext:
    """Read the system's certificates once: it takes as long as a call, and each job has its own client."""
    return httpx.create_ssl_context()


def _limits(server: httpx.URL) -> httpx.Limits:
    """Keep connections open where that pays: over TLS.

    The server that ``label-studio start`` runs sends an answer's head and body apart. On a connection that
    was used before, the body waits for the client's acknowledgement of the head: 40 ms a call.
    """
    return httpx.Limits(max_keepalive_connections=None if server.scheme == "https" else 0)


class LabelStudioClient:
    """A Label Studio server.

    A call that meets a lost connection, a time-out, 429 or 5xx is tried again with growing pauses until
    ``settings.patience`` seconds have passed since its start; then it raises StudioUnavailable. All calls
    raise NotInStudio for what is not there, TokenRefused where the token is refused, and Refused where the
    request is, or where the server has moved. ``http``: another client than its own.

    Raises Refused for an address that cannot be one, and where no token is set.
    """

    def __init__(self, settings: Settings, *, http: httpx.Client | None = None) -> None:
        if settings.label_studio_api_key is None:
            raise Refused(f"LABEL_STUDIO_API_KEY is not set; {TOKEN_REMEDY}")
        # Where the path does not end in a slash, the SDK drops its last part to exchange the token.
        server = server_address(settings.label_studio_url)
        self._url, self._shown = str(server), shown(server)
        self._key = settings.label_studio_api_key
        self._patience = settings.patience
        if http is None:
            http = httpx.Client(timeout=TIMEOUT, verify=_certificates(), limits=_limits(server))
            weakref.finalize(self, http.close)
        http.event_hooks = {"response": [Server(server).require_no_redirect]}
        self._http = http
        self._sdk: LabelStudio | None = None

    def user(self) -> str:
        """Tell whose token it is: the user's e-mail address."""
        return self._call(
            "the token's user", lambda sdk: sdk.users.whoami(request_options=OPTIONS).email or ""
        )

    def project(self, project_id: int) -> LabelStudioProject:
        """Read a project's settings."""
        found = self._call(
            f"project {project_id}", lambda sdk: sdk.projects.get(project_id, request_options=OPTIONS)
        )
        return LabelStudioProject(
            project_id,
            found.title or "",
            found.label_config or "",
            found.model_version,
            found.total_predictions_number or 0,
        )

    def annotated(self, project_id: int) -> Iterator[LabelStudioTask]:
        """List the tasks that have an annotation which was not cancelled, in the order of their ids."""
        return self._tasks(project_id, _filter("total_annotations", "greater", 0))

    def tasks(self, project_id: int) -> Iterator[LabelStudioTask]:
        """List all tasks, in the order of their ids."""
        return self._tasks(project_id)

    def predicted(self, project_id: int) -> Iterator[LabelStudioTask]:
        """List the tasks that have a prediction, of whatever version, in the order of their ids."""
        return self._tasks(project_id, _filter("total_predictions", "greater", 0))

    def unlabelled(
        self,
        project_id: int,
        *,
        predicted: bool | None = None,
        without: str | None = None,
        within: tuple[int, int] | None = None,
    ) -> Iterator[LabelStudioTask]:
        """List the tasks that have no annotation but cancelled ones, in the order of their ids.

        ``predicted``: those alone that have a prediction, of whatever version, or that have none.
        ``without``: those alone that have none whose version contains this text, whatever its case.
        ``within``: those alone from the first of these ids to the last.
        """
        chosen = [_filter("total_annotations", "equal", 0)]
        if predicted is not None:
            chosen.append(_filter("total_predictions", "greater" if predicted else "equal", 0))
        if without is not None:
            chosen.append(_filter("predictions_model_versions", "not_contains", [without]))
        if within is None:
            return self._tasks(project_id, *chosen)
        first, last = within
        return self._tasks(project_id, *chosen, _filter("id", "less_or_equal", last), after=first - 1)

    def task(self, project_id: int, task_id: int) -> LabelStudioTask:
        """Read a task.

        (It is looked up in its project: where a task without predictions is read by its address alone, Label
        Studio first has the project's backend predict it.)
        """
        for task in self._tasks(project_id, _filter("id", "equal", task_id)):
            return task
        raise NotInLabelStudio(
            f"task {task_id} is not in project {project_id} of Label Studio: was it deleted?"
        )

    def annotations(self, task_id: int) -> list[LabelStudioAnnotation]:
        """List a task's annotations without the cancelled ones."""
        found = self._call(
            f"the annotations of task {task_id}",
            lambda sdk: sdk.annotations.list(task_id, request_options=OPTIONS),
        )
        return [
            LabelStudioAnnotation(
                id=annotation.id,
                updated_at=_time(annotation.updated_at),
                ground_truth=bool(annotation.ground_truth),
                result=annotation.result or [],
                parent_prediction=annotation.parent_prediction,
            )
            for annotation in found
            if not annotation.was_cancelled
        ]

    def prediction(self, prediction_id: int) -> dict[str, Any]:
        """Read a prediction: its ``result`` and its ``model_version``."""
        found = self._call(
            f"prediction {prediction_id}",
            lambda sdk: sdk.predictions.get(prediction_id, request_options=OPTIONS),
        )
        return {"result": found.result or [], "model_version": found.model_version}

    def predictions_of(self, task_id: int) -> list[LabelStudioPrediction]:
        """List a task's predictions. Label Studio sends their masks along."""
        return self._call(f"the predictions of task {task_id}", lambda sdk: _predictions(sdk, task_id))

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a prediction; one that is gone already is as well."""
        with suppress(NotInLabelStudio):
            self._call(
                f"prediction {prediction_id}",
                lambda sdk: sdk.predictions.delete(prediction_id, request_options=OPTIONS),
            )

    def push_prediction(
        self, task_id: int, answer: Mapping[str, Any], *, besides: Sequence[int] = ()
    ) -> None:
        """Store a prediction as ``ebseg.label_studio.regions.prediction`` makes it.

        A try without an answer may have arrived all the same: before another one it is looked whether the
        task has a prediction of this version, ``besides`` those of these ids.
        """
        tries = 0

        def push(sdk: "LabelStudio") -> None:
            nonlocal tries
            tries += 1
            found = _predictions(sdk, task_id) if tries > 1 else []
            if any(each.version == answer["model_version"] and each.id not in besides for each in found):
                return
            sdk.predictions.create(
                task=task_id,
                result=answer["result"],
                score=answer["score"],
                model_version=answer["model_version"],
                request_options=OPTIONS,
            )

        self._call(f"task {task_id} (to predict)", push)

    def push_annotation(self, task_id: int, result: Sequence[Mapping[str, Any]]) -> bool:
        """Store an annotation of a task that has none but cancelled ones; tell whether it had none.

        So what a try without an answer has stored is not stored again.
        """

        def push(sdk: "LabelStudio") -> bool:
            found = sdk.annotations.list(task_id, request_options=OPTIONS)
            if not all(annotation.was_cancelled for annotation in found):
                return False
            sdk.annotations.create(
                task_id, result=[dict(region) for region in result], request_options=OPTIONS
            )
            return True

        return self._call(f"task {task_id} (to annotate)", push)

    def backends(self, project_id: int) -> list[LabelStudioBackend]:
        """List a project's models. Label Studio calls each of them now: 4 s where one does not answer."""
        found = self._call(
            f"the models of project {project_id}",
            lambda sdk: sdk.ml.list(project=project_id, request_options=OPTIONS),
        )
        return [
            LabelStudioBackend(
                url=backend.url,
                title=backend.title or "",
                connected=backend.state not in _NOT_CONNECTED,
                error=(backend.error_message or "") if backend.state == "ER" else "",
                version=backend.model_version or "",
            )
            for backend in found
        ]

    def set_model_version(self, project_id: int, version: str) -> bool:
        """Have the project show this version's scores; tell whether it does.

        Label Studio refuses a version of which the project has no prediction.
        """

        def update(sdk: "LabelStudio") -> bool:
            try:
                sdk.projects.update(project_id, model_version=version, request_options=OPTIONS)
            except ApiError as error:
                if error.status_code == httpx.codes.BAD_REQUEST and "model_version" in faults(error):
                    return False
                raise
            return True

        return self._call(f"the model version of project {project_id}", update)

    def _tasks(self, project_id: int, *chosen: dict[str, Any], after: int = 0) -> Iterator[LabelStudioTask]:
        """List tasks page by page, those with ids larger than ``after``.

        A page begins after the last id of the page before, so that none is missed or comes twice where tasks
        come, go or get annotated meanwhile.
        """
        last, more = after, True
        while more:
            filters = {"conjunction": "and", "items": [*chosen, _filter("id", "greater", last)]}
            query = json.dumps({"filters": filters, "ordering": ["tasks:id"]})
            found = self._call(f"the tasks of project {project_id}", partial(_page, project_id, query))
            for task in found.items or ():
                last = task.id
                counts = f"{task.total_annotations} {task.cancelled_annotations}"
                yield LabelStudioTask(task.id, task.data, f"{_time(task.updated_at)} {counts}")
            more = bool(found.items) and found.response.total > len(found.items)

    def _call(self, what: str, call: Callable[["LabelStudio"], T]) -> T:
        """Make a call until it is answered. ``what``: what it asks for, for messages."""
        deadline = time.monotonic() + self._patience
        pause, renewed = FIRST_PAUSE, False
        failure: Exception
        while True:
            try:
                return call(self._client())
            except ApiError as error:
                status = error.status_code or 0
                if status == httpx.codes.UNAUTHORIZED and not renewed:
                    self._sdk, renewed = None, True  # the short-lived token may have run out on the way
                    continue
                if status not in _TRY_AGAIN and httpx.codes.is_client_error(status):
                    raise self._refusal(what, error) from error
                answers = f"it answers {status}"
                failure, reason = error, _NOT_IT if httpx.codes.is_success(status) else answers
            except httpx.RequestError as error:
                failure, reason = error, str(error) or type(error).__name__
            except json.JSONDecodeError as error:  # from the SDK's exchange of the token
                failure, reason = error, _NOT_IT
            left = deadline - time.monotonic()
            if left <= 0:
                since = f", for {self._patience:g} s" if self._patience else ""
                raise LabelStudioUnavailable(
                    f"Label Studio at {self._shown} does not give {what}: {reason}{since}; "
                    "is it running, and is LABEL_STUDIO_URL its address?"
                ) from failure
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _client(self) -> "LabelStudio":
        """Give the SDK's client, which exchanges the token for short-lived ones and keeps them."""
        if self._sdk is None:
            from label_studio_sdk import LabelStudio  # takes 2 s

            self._sdk = LabelStudio(
                base_url=self._url, api_key=self._key.get_secret_value(), httpx_client=self._http
            )
        return self._sdk

    def _refusal(self, what: str, error: ApiError) -> EBSegError:
        """Say why a call is hopeless, without an ApiError's own text, which holds the answer's cookies."""
        status, wrong = error.status_code, faults(error)
        if status == httpx.codes.NOT_FOUND or (status == httpx.codes.BAD_REQUEST and "task" in wrong):
            return NotInLabelStudio(f"Label Studio at {self._shown} does not have {what}: was it deleted?")
        if status == httpx.codes.UNAUTHORIZED:
            return TokenRefused(
                f"{self._shown}: Label Studio refused the token (401); it is expired or revoked, or a legacy "
                f"token, which new servers refuse; {TOKEN_REMEDY}"
            )
        if status == httpx.codes.FORBIDDEN:
            return Refused(
                f"{self._shown}: Label Studio denies access to {what} (403); may the token's user see this "
                f"project? If not, {TOKEN_REMEDY}"
            )
        detail = error.body.get("detail") if isinstance(error.body, dict) else "no answer of Label Studio's"
        return Refused(f"{self._shown}: the request for {what} is refused ({status}: {detail} {wrong or ''})")


def _filter(field: str, operator: str, value: int | list[str]) -> dict[str, Any]:
    """Make a filter of the Data Manager's."""
    kind = "List" if isinstance(value, list) else "Number"
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}


def _page(project_id: int, query: str, sdk: "LabelStudio") -> Any:
    """List the first tasks that a query finds."""
    return sdk.tasks.list(
        project=project_id,
        fields="task_only",
        page=1,
        page_size=PAGE_SIZE,
        query=query,
        resolve_uri=False,
        request_options=OPTIONS,
    )


def _predictions(sdk: "LabelStudio", task_id: int) -> list[LabelStudioPrediction]:
    found = sdk.predictions.list(task=task_id, request_options=OPTIONS)
    return [LabelStudioPrediction(each.id, each.model_version or "", not each.result) for each in found]


def faults(error: ApiError) -> dict[str, Any]:
    """Give what Label Studio says is wrong with each field of a request."""
    found = error.body.get("validation_errors") if isinstance(error.body, dict) else None
    return found if isinstance(found, dict) else {}


def _time(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
