"""The part of ``ebseg doctor`` that walks through a project: model, labels, photo, scores, webhook, tasks."""

import time
from collections.abc import Collection, Iterator

from backend.findings import Finding
from ebseg.errors import EBSegError
from ebseg.images import read_image
from ebseg.label_studio.fetch import ImageFetcher
from ebseg.label_studio.tasks import Labelling, language_hint, read_label_config
from training.annotations.advice import advise
from training.annotations.inspection import StudioInspection
from training.annotations.label_studio import (
    LabelStudioBackend,
    LabelStudioProject,
    LabelStudioTask,
    NotInLabelStudio,
)
from training.annotations.manifest import latest
from training.settings import Settings
from training.storage import Storage

MOST_PROJECTS = 50
"""Projects that are looked at, besides those that are known to use the service: the newest."""

CONNECT = "open the project's Settings, Model, Connect Model and give the service's address"


def check_projects(
    studio: StudioInspection, photos: ImageFetcher, settings: Settings, known: Collection[int]
) -> tuple[list[Finding], list[str]]:
    """Walk through the projects that have a model; give the models' addresses too.

    ``known``: projects that have called the service. Raises what Studio raises.
    """
    findings: list[Finding] = []
    addresses: list[str] = []
    for number in dict.fromkeys([*settings.projects, *known, *studio.projects(MOST_PROJECTS)]):
        try:
            backends = studio.backends(number)
            if backends:
                addresses += [backend.url for backend in backends]
                findings += _Walk(studio, photos, settings, studio.project(number), backends).findings()
            elif number in settings.projects:
                findings.append(Finding(f"project {number}", "no model is connected", CONNECT))
        except NotInLabelStudio:
            if number in settings.projects:
                remedy = "take it out of EBSEG_PROJECTS, or have the token's user see it"
                findings.append(Finding(f"project {number}", "is not in Label Studio", remedy))
        except EBSegError as error:
            findings.append(Finding(f"project {number}", "cannot be looked at", str(error)))
    if not addresses:
        findings.append(Finding("projects", "no project has a model connected", CONNECT))
    return findings, addresses


class _Walk:
    """Looks at one project."""

    def __init__(
        self,
        studio: StudioInspection,
        photos: ImageFetcher,
        settings: Settings,
        project: LabelStudioProject,
        backends: list[LabelStudioBackend],
    ) -> None:
        self._studio, self._photos, self._settings = studio, photos, settings
        self._project, self._backends = project, backends

    def findings(self) -> Iterator[Finding]:
        """Look at one thing after the other, as far as each allows."""
        yield from map(self._connection, self._backends)
        labelling, labels = self._labels()
        yield labels
        if labelling:
            yield self._photo(labelling)
        if any(backend.connected for backend in self._backends):
            yield self._scores()
        if self._settings.learn:
            yield self._webhook()
            if labelling:
                yield self._held_out(labelling)

    def _finding(self, check: str, detail: str, remedy: str = "") -> Finding:
        return Finding(f"project {self._project.id}, {check}", detail, remedy)

    def _connection(self, backend: LabelStudioBackend) -> Finding:
        check, url = "model", backend.url
        if backend.connected:
            return self._finding(check, f'"{self._project.title}" gets {backend.version} from {url}')
        if backend.error:
            return self._finding(check, f"{url} has answered Label Studio with an error", backend.error)
        return self._finding(
            check,
            f"Label Studio does not reach {url}",
            "start the service, with EBSEG_HOST=0.0.0.0 if Label Studio is on another machine or in a "
            "container, and connect the address by which that reaches it (a container's localhost is itself)",
        )

    def _labels(self) -> tuple[Labelling | None, Finding]:
        check = "labels"
        try:
            labelling = read_label_config(self._project.label_config)
        except EBSegError as error:
            return None, self._finding(check, "the label config cannot be served", str(error))
        served = [
            f"{len(each.control.labels)} of {each.control.title}, on ${question.image.data_key}"
            for question in labelling.questions
            for each in question.controls
        ]
        detail = "; ".join(filter(None, [*served, language_hint(labelling)]))
        return labelling, self._finding(check, detail, "; ".join(labelling.problems))

    def _photo(self, labelling: Labelling) -> Finding:
        """Fetch one photo, as the service would."""
        check = "photo"
        project = self._project.id
        try:
            task = next(self._studio.unlabelled(project), None) or next(self._studio.annotated(project), None)
        except EBSegError as error:
            return self._finding(check, "the tasks cannot be listed", str(error))
        if task is None:
            return self._finding(check, "there are no tasks yet")
        begun = time.monotonic()
        try:
            content = self._fetch(task, labelling)
            image = read_image(
                content,
                max_pixels=self._settings.max_pixels,
                limited_by="EBSEG_MAX_PIXELS",
                name="the photo",
            )
        except EBSegError as error:
            return self._finding(check, f"that of task {task.id} cannot be had", str(error))
        seconds = time.monotonic() - begun
        height, width = image.shape[:2]
        return self._finding(check, f"that of task {task.id} has {width}x{height} pixels, in {seconds:.1f} s")

    def _fetch(self, task: LabelStudioTask, labelling: Labelling) -> bytes:
        return self._photos.fetch(labelling.first_address({"data": task.data}), task_id=task.id)

    def _scores(self) -> Finding:
        """See whether the Data Manager's score column, which sampling goes by, shows a model's scores."""
        check, shown = "scores", self._project.model_version or ""
        versions = [backend.version for backend in self._backends if backend.connected]
        if shown in versions:
            return self._finding(check, f"those of {shown} are shown")
        if not self._project.predictions:
            return self._finding(check, "there are no predictions yet (Actions, Retrieve Predictions)")
        if shown and shown not in [backend.title for backend in self._backends]:
            return self._finding(
                check, f"those of {shown} are shown, which somebody chose; not {versions[0]}'s"
            )
        return self._finding(
            check,
            f'none are shown: the project asks for those of "{shown}"',
            f"choose {versions[0]} in the project's Settings, Annotation, Live Predictions: else the score "
            "column stays empty, and uncertainty sampling serves tasks at random",
        )

    def _webhook(self) -> Finding:
        check = "webhook"
        try:
            there = [url.rstrip("/") for url in self._studio.webhooks(self._project.id)]
        except EBSegError as error:
            return self._finding(check, "the webhooks cannot be listed", str(error))
        wanted = [f"{backend.url.rstrip('/')}/webhook" for backend in self._backends]
        missing = [url for url in wanted if url not in there]
        if missing:
            return self._finding(
                check,
                f"Label Studio does not call {', '.join(missing)}",
                "mend what is said of its address, then add it in the project's Settings, Webhooks, "
                "or connect the model anew; until then annotations are read on schedule only",
            )
        return self._finding(check, f"Label Studio calls {', '.join(wanted)}")

    def _held_out(self, labelling: Labelling) -> Finding:
        """Tell how many tasks may judge the models, and which to annotate where they are too few."""
        check, least = "held-out tasks", self._settings.min_held_out
        storage = Storage(self._settings.storage_url, self._settings.home / "cache")
        try:
            manifest = latest(storage, self._project.id)
            there = len(manifest.judging("held_out")) if manifest else 0
            if there >= least:
                return self._finding(check, f"{there} are annotated; {least} are enough to judge by")
            advice = advise(
                self._studio.unlabelled(self._project.id),
                lambda task: self._fetch(task, labelling),
                storage,
                self._project.id,
                self._settings.held_out_share,
                least - there,
            )
        except (EBSegError, OSError) as error:
            return self._finding(check, "they cannot be counted", str(error))
        return self._finding(check, f"{there} of {least} are annotated, so no model is judged yet; {advice}")
