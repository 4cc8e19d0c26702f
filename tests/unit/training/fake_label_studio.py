"""Label Studio's answers from memory, as a 1.23 server gives them, for what the loop asks."""

import json
from collections.abc import Callable
from typing import Any

import httpx

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
    '<Label value="sky" synonyms="heaven"/><Label value="Auto" alias="car"/></BrushLabels></View>'
)


class FakeLabelStudio:
    """One project, 1. ``seen``: each request's method and path. ``trouble``: what to answer first instead.

    ``models``: the titles of those that are connected, which ``calls_models`` calls.
    """

    def __init__(self) -> None:
        self.title, self.config, self.model_version = "Streets", CONFIG, None
        self.tasks: dict[int, dict[str, Any]] = {}
        self.annotations: dict[int, dict[str, Any]] = {}
        self.predictions: dict[int, dict[str, Any]] = {}
        self.seen: list[tuple[str, str]] = []
        self.trouble: list[Callable[[httpx.Request], httpx.Response] | Exception | int] = []
        self.models: list[str] = []
        self.calls_models: Callable[[], None] = lambda: None
        self.largest_page = 1_000_000
        self._clock = 0

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self._answer))

    def requests(self, path: str, method: str = "GET") -> int:
        return self.seen.count((method, path))

    def add_task(self, **data: Any) -> int:
        number = len(self.tasks) + 1
        self.tasks[number] = {"id": number, "data": data, "updated_at": self._now()}
        return number

    def annotate(self, task: int, result: list[dict[str, Any]], **more: Any) -> int:
        number = len(self.annotations) + 1
        self.annotations[number] = {
            "id": number, "task": task, "result": result, "updated_at": self._now(), "was_cancelled": False,
            "ground_truth": False, "parent_prediction": None,
        } | more  # fmt: skip
        self.tasks[task]["updated_at"] = self._now()
        return number

    def change(self, annotation: int, **changes: Any) -> None:
        self.annotations[annotation] |= {"updated_at": self._now()} | changes
        self.tasks[self.annotations[annotation]["task"]]["updated_at"] = self._now()

    def predict(
        self, task: int, result: list[dict[str, Any]], version: str | None, score: float = 0.5
    ) -> int:
        number = max(self.predictions, default=0) + 1
        self.predictions[number] = {
            "id": number, "task": task, "result": result, "model_version": version, "score": score,
        }  # fmt: skip
        self.tasks[task]["updated_at"] = self._now()
        return number

    def _now(self) -> str:
        self._clock += 1
        return f"2026-01-01T{self._clock // 3600:02}:{self._clock // 60 % 60:02}:{self._clock % 60:02}.5Z"

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.seen.append((request.method, path))
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return httpx.Response(trouble, text="<html>") if isinstance(trouble, int) else trouble(request)
        return self.serve(request)

    def serve(self, request: httpx.Request) -> httpx.Response:
        """Answer as a server that is well."""
        kind, *rest = request.url.path.removeprefix("/api/").strip("/").split("/")
        numbers = [part for part in rest if part.isdigit()]
        answer = {
            ("projects", "GET"): self._project, ("projects", "PATCH"): self._change_project,
            ("ml", "GET"): self._models, ("current-user", "GET"): self._user,
            ("tasks", "GET"): self._annotations_of if numbers else self._task_page,
            ("tasks", "POST"): self._annotate,
            ("predictions", "GET"): self._prediction if numbers else self._predictions_of,
            ("predictions", "POST"): self._predict, ("predictions", "DELETE"): self._delete,
        }[kind, request.method]  # fmt: skip
        return answer(request, *map(int, numbers[:1]))

    def _project(self, request: httpx.Request, number: int) -> httpx.Response:
        if number != 1:
            return _missing()
        project = {"id": 1, "title": self.title, "label_config": self.config}
        counts = {"total_predictions_number": len(self.predictions)}
        return httpx.Response(200, json=project | counts | {"model_version": self.model_version})

    def _change_project(self, request: httpx.Request, number: int) -> httpx.Response:
        version = json.loads(request.content)["model_version"]
        if all(each["model_version"] != version for each in self.predictions.values()):
            return _invalid("model_version", "Model version doesn't exist")
        self.model_version = version
        return self._project(request, number)

    def _models(self, request: httpx.Request) -> httpx.Response:
        """List the project's models; a real server calls each of them first."""
        self.calls_models()
        rows = [
            {"id": 1, "project": 1, "url": "http://backend", "title": title, "state": "CO"}
            for title in self.models
        ]
        return httpx.Response(200, json=rows)

    def _user(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"id": 1, "email": "a@b.c"})

    def _task_page(self, request: httpx.Request) -> httpx.Response:
        asked = request.url.params
        assert (asked["fields"], asked["resolve_uri"], asked["page"]) == ("task_only", "false", "1")
        if asked["project"] != "1":
            return _missing()
        query = json.loads(asked["query"])
        assert query["ordering"] == ["tasks:id"] and query["filters"]["conjunction"] == "and"
        tasks = [self._row(task) for _, task in sorted(self.tasks.items())]
        for each in query["filters"]["items"]:
            name = each["filter"].removeprefix("filter:tasks:")
            keep = {
                "greater": int.__gt__, "equal": int.__eq__, "less_or_equal": int.__le__,
                "not_contains": _has_none_of,
            }[each["operator"]]  # fmt: skip
            tasks = [task for task in tasks if keep(task[name], each["value"])]
        size = min(int(asked["page_size"]), self.largest_page)
        return _ok({"tasks": tasks[:size], "total": len(tasks)})

    def _row(self, task: dict[str, Any]) -> dict[str, Any]:
        of_task = [each for each in self.annotations.values() if each["task"] == task["id"]]
        cancelled = sum(each["was_cancelled"] for each in of_task)
        versions = [
            each["model_version"] or "" for each in self.predictions.values() if each["task"] == task["id"]
        ]
        return task | {
            "total_annotations": len(of_task) - cancelled,
            "cancelled_annotations": cancelled,
            "total_predictions": len(versions),
            "predictions_model_versions": versions,
        }

    def _annotations_of(self, request: httpx.Request, task: int) -> httpx.Response:
        if task not in self.tasks:
            return _missing()
        found = [each for each in self.annotations.values() if each["task"] == task]
        return _ok(found)

    def _annotate(self, request: httpx.Request, task: int) -> httpx.Response:
        if task not in self.tasks:
            return _missing()
        number = self.annotate(task, json.loads(request.content)["result"])
        return httpx.Response(201, json=self.annotations[number])

    def _prediction(self, request: httpx.Request, number: int) -> httpx.Response:
        found = self.predictions.get(number)
        return _ok(found) if found else _missing()

    def _delete(self, request: httpx.Request, number: int) -> httpx.Response:
        return httpx.Response(204) if self.predictions.pop(number, None) else _missing()

    def _predictions_of(self, request: httpx.Request) -> httpx.Response:
        task = int(request.url.params["task"])
        if task not in self.tasks:
            return _invalid("task", "Select a valid choice.")
        return httpx.Response(200, json=[each for each in self.predictions.values() if each["task"] == task])

    def _predict(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if asked["task"] not in self.tasks:
            return _invalid("task", "object does not exist.")
        number = self.predict(asked["task"], asked["result"], asked["model_version"], asked["score"])
        return httpx.Response(201, json=self.predictions[number])


def _has_none_of(versions: list[str], texts: list[str]) -> bool:
    """Search as SQLite does, whatever the case."""
    return not any(text.lower() in version.lower() for version in versions for text in texts)


_OPERATORS = {"greater": int.__gt__, "equal": int.__eq__, "not_contains": _has_none_of}


def _ok(content: Any) -> httpx.Response:
    """Answer with JSON, also of what httpx would not write: NaN, halves of a character."""
    return httpx.Response(200, content=json.dumps(content), headers={"Content-Type": "application/json"})


def _missing() -> httpx.Response:
    return httpx.Response(404, json={"status_code": 404, "detail": "No match."})


def _invalid(name: str, why: str) -> httpx.Response:
    faults = {name: [why]}
    return httpx.Response(400, json={"detail": "Validation error", "validation_errors": faults})
