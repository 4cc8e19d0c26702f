"""For people who host their backends with the package label-studio-ml: the same service behind its class.

Works with 1.0.9, the last release on PyPI, and with the 2.x line of its repository: docs/label-studio-ml.md.
"""

import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from backend.service import Service, build_service
from backend.webhook_events import Event, read_action, read_project
from ebseg.errors import ConfigError, EBSegError
from training.settings import load_settings

try:
    from label_studio_ml.model import LabelStudioMLBase
except ModuleNotFoundError as missing:
    _reason = str(missing)

    class LabelStudioMLBase:  # type: ignore[no-redef]
        """Stands in for the package's class where the package is not installed."""

        def __init__(self, *_arguments: object, **_options: object) -> None:
            raise ConfigError(
                f"label-studio-ml cannot be imported ({_reason}); docs/label-studio-ml.md says how to "
                "install it, or run `ebseg serve`, which does not need it"
            )


class EBSegBackend(LabelStudioMLBase):  # type: ignore[misc]
    """EBSeg for label-studio-ml, to be passed to its ``init_app``.

    The package makes one object for each project (1.0.9) or each request (2.x). All of them share one
    service, whose settings come from the environment; it is built, and its model loaded, with the first.
    """

    _service: ClassVar[Service | None] = None
    _building: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.service().note_hostname(getattr(self, "hostname", None))  # only 1.0.9 tells it

    @classmethod
    def service(cls) -> Service:
        """Give the process's service. Raises ConfigError for wrong settings."""
        with cls._building:
            if cls._service is None:
                cls._service = build_service(load_settings())
            return cls._service

    def setup(self) -> None:
        """Tell the model's version; 2.x calls this at the end of its construction, 1.0.9 never."""
        self.set("model_version", self._version())

    def _version(self) -> str:
        service = self.service()
        try:
            return service.version(self.label_config, self._project())
        except EBSegError:  # it is told to who asks for a prediction
            return service.version(None, self._project())

    def predict(
        self, tasks: Sequence[Any], context: Mapping[str, Any] | None = None, **_login: Any
    ) -> list[dict[str, Any]]:
        """Give one prediction for each task; see Service.predict."""
        return self.service().predict(tasks, self.label_config or "", context, self._project())

    def _project(self) -> int | None:
        return read_project(getattr(self, "project_id", None))  # only 2.x tells it

    def fit(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Take an event of either line as a hint; the training itself is the workers'."""
        event, data = (*arguments, None, None)[:2]
        data = options.get("data", data)
        project = data.get("project") if isinstance(data, dict) else None
        found = Event(read_action(options.get("event", event)), read_project(project))
        service = self.service()
        if multiprocessing.parent_process() is None:
            service.note_event(found)
        elif service.outbox and found.action and found.project:
            # 1.0.9 calls this in a child, which has no thread of the outbox, and waits for nobody's answer.
            service.outbox.connect().note_event(found.project, 1, found.forced, found.uploaded)
        return {}
