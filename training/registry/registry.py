"""The versions of the model that learns, in MLflow's model registry, and which of them is served.

The alias ``champion-7`` is on the version that project 7 is served, ``candidate-7`` on the newest that was
trained for it; ``champion`` is the base, which serves projects that have no champion of their own. Where
the settings share one champion among all projects it is the only one. Each version has a run, which holds its
file (``model/``) and what the gate decided (``decision.json``). The processes of one machine exclude each
other by file locks in ``home``. Those of several machines do not: each checks again, right before it writes,
that nothing has changed.
"""

import json
import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from ebseg.errors import ConfigError, EBSegError, MlflowUnavailable
from ebseg.files import locked
from ebseg.label_studio.version import model_of
from ebseg.model_names import OFFICIAL_FILES, PACKAGED, checkpoint_path
from ebseg.runs.mlflow_store import connect, disconnect, experiment_id, is_made, unusable
from training.registry.aliases import CANDIDATE, CHAMPION, HISTORY, own, project_of
from training.registry.decision import Decision
from training.registry.history import History
from training.registry.model_files import MODEL_FOLDER, fetch, upload, version_in
from training.registry.opened import Opened
from training.registry.parting import SHARE_TAG, is_parted, part
from training.registry.version import Version, line_of, run_of, version_of
from training.settings import Settings, load_settings

_log = logging.getLogger(__name__)

DECISION_FILE = "decision.json"
"""Where a version's run keeps what the gate decided."""


class ChampionChanged(EBSegError):
    """Another version has become the champion meanwhile: compare with that one."""


class Registry:
    """The registered model that the settings name; MlflowUnavailable is raised where MLflow fails."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model = settings.registered_model

    def ensure_base(self, project: int | None = None) -> Version:
        """Give a project's champion; where there is none, the settings' model becomes a version and the base.

        ``project``: see ``champion``. A released or packaged model is not copied. Raises what
        ``ebseg.model_names.checkpoint_path`` raises, and ConfigError where the champion comes from another
        model than the settings'.
        """
        champion = self._parted_champion(project)
        if champion is None:
            return self._make_base()
        self._require_descent(champion)
        return champion

    def start_over(self) -> Version:
        """Give the base, if it comes from the settings' model; else that becomes the base."""
        champion = self._parted_champion(None)
        if champion is not None and self.descends(champion):
            return champion
        return self._make_base()

    def _parted_champion(self, project: int | None) -> Version | None:
        """Give the champion, after each project has got its own."""
        if not self._is_made:
            return None
        with self._parted_store() as opened:
            return self._champion(opened, project)

    def _make_base(self) -> Version:
        model = self._settings.model
        path = checkpoint_path(model)
        released = model if model == PACKAGED or model in OFFICIAL_FILES else None
        base = self._add(
            path,
            key=f"base {self._settings.base_model} {version_in(path)}",
            run_id=None,
            tags={},
            released=released,
        )
        with self._lock(CHAMPION), self._store() as opened:
            champion = opened.aliased(CHAMPION)  # another process may have been faster
            if champion is None or not self.descends(champion):
                self._set_champion(opened, None, base.number, "the model to start from", [])
                champion = opened.get(base.number)
        return champion

    def descends(self, version: Version) -> bool:
        """Tell whether a version comes from the settings' model, or is named by it."""
        return (
            self._settings.model.startswith("models:")
            or version.tags.get("model", self._settings.base_model) == self._settings.base_model
        )

    def _require_descent(self, version: Version) -> None:
        if not self.descends(version):
            raise ConfigError(
                f"version {version.number} comes from {version.tags.get('model')}, and EBSEG_MODEL is "
                f"{self._settings.model}: set it to the former everywhere, and try again"
            )

    def champion(self, project: int | None = None) -> Version | None:
        """Give the version that a project is served: its own champion, else the base. Takes milliseconds.

        None where nothing is registered. A champion of its own that comes from another model than the
        settings' waits until that is the settings' again.
        """
        if not self._is_made:
            return None
        with self._store() as opened:
            return self._champion(opened, project)

    def champions(self) -> dict[int | None, Version]:
        """List the champions of projects that have their own, and, as None's, the base: in two requests.

        Those that come from another model than the settings' are left out.
        """
        found = {
            owner: version
            for version in self.versions()
            for alias in version.aliases
            if (owner := project_of(CHAMPION, alias)) is not None or alias == CHAMPION
        }
        shared = self._settings.share == "all"
        return {
            owner: version
            for owner, version in found.items()
            if self.descends(version) and not (shared and owner is not None)
        }

    def versions(self) -> list[Version]:
        """List all versions, the oldest first."""
        if not self._is_made:
            return []
        with self._store() as opened:
            return opened.versions()

    def names(self) -> set[str]:
        """List the versions' names."""
        return {version.name for version in self.versions()}

    def version(self, ref: str) -> Version:
        """Find a version by its number, its alias, its name or that of its predictions.

        ``champion-7`` is the base where project 7 has no champion of its own. Raises ConfigError for an
        unknown one.
        """
        versions, project = self.versions(), project_of(CHAMPION, ref)
        refs = [ref] if project is None else [own(CHAMPION, self._owner(project)), CHAMPION]
        for name, version in product(refs, reversed(versions)):
            if name in (str(version.number), *version.aliases) or version.is_called(name):
                return version
        if not versions:
            raise ConfigError(f"nothing is registered as {self._model!r} yet: the first training does that")
        known = ", ".join(" ".join([str(version.number), *version.aliases]) for version in versions)
        raise ConfigError(f"{self._model!r} has no version {ref!r}; known: {known}")

    def origin(self, version: Version) -> Version:
        """Give the version that a version's line of trainings began with, as far as it is still there."""
        return line_of(version, self.versions())[-1]

    def register(
        self,
        model_file: Path,
        *,
        key: str,
        run_id: str | None,
        tags: Mapping[str, str],
        project: int | None = None,
    ) -> Version:
        """Upload a model's file as a new version: the candidate of the project that it was trained for.

        ``key``: of what made it; a second call with the same one, as of a job that is repeated, gives the
        version that is there. ``run_id``: of its training, which has ended; None makes a run for it.
        """
        trained_for = {} if project is None else {"project": str(project)}
        version = self._add(model_file, key=key, run_id=run_id, tags={**tags, **trained_for})
        alias = own(CANDIDATE, self._owner(project))
        with self._lock(CANDIDATE), self._store() as opened:
            if run_id is not None and opened.client.get_run(run_id).info.status == "RUNNING":
                opened.client.set_terminated(run_id)  # MLflow was away when the training wanted to say so
            newest = opened.aliased(alias)
            if newest is None or newest.number < version.number:
                opened.client.set_registered_model_alias(self._model, alias, str(version.number))
            return opened.get(version.number)

    def checkpoint(self, version: Version) -> Path:
        """Give a version's file on this machine, downloaded once where it has to be.

        Raises ConfigError for a version that was not registered by this package, and what
        ``ebseg.model_names.checkpoint_path`` raises for one that was not copied.
        """
        if "checkpoint" in version.tags:
            return checkpoint_path(version.tags["checkpoint"])
        file, run_id = version.tags.get("file"), run_of(version)
        if file is None:
            raise ConfigError(
                f"version {version.number} of {self._model!r} has no tag 'file': register it anew"
            )
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", version.name)
        kept = self._settings.home / "models" / f"{safe}-{version.number}{Path(file).suffix}"
        if kept.exists():
            return kept
        with self._store() as opened:
            return fetch(opened.client, run_id, file, version.name, kept)

    def named(self, name: str) -> Path:
        """Find the file of the model by its version, or by that of its predictions.

        It is a registered version, or the settings' model. Raises ConfigError where it is neither.
        """
        for version in reversed(self.versions()):
            if version.is_called(name):
                return self.checkpoint(version)
        path = checkpoint_path(self._settings.model)
        if version_in(path) not in (name, model_of(name)):
            raise ConfigError(f"no model has the version {name!r}: it is not registered as {self._model!r}")
        return path

    def promote(
        self,
        version: Version,
        reason: str,
        *,
        project: int | None = None,
        expected_champion: int | None = None,
    ) -> None:
        """Make a version a project's champion, and nobody else's; without a project the base.

        Raises ChampionChanged where another one than the expected is served now.
        """
        self._require_descent(version)
        with self._parted_store() as opened, self._lock(CHAMPION):
            current = self._champion(opened, project)
            number = None if current is None else current.number
            if expected_champion is not None and number != expected_champion:
                raise ChampionChanged(
                    f"version {number} became the champion meanwhile, version {version.number} was compared "
                    f"with {expected_champion}: compare it with {number}"
                )
            if number != version.number:
                before = [] if number is None else [*opened.before(self._owner(project), number), number]
                self._set_champion(opened, project, version.number, reason, before)

    def rollback(
        self,
        reason: str,
        require: Callable[[Version], None] = lambda _: None,
        *,
        project: int | None = None,
    ) -> Version:
        """Make the version a project's champion that was it before the current one; give that version.

        ``require`` raises for a version that must not become it. Raises ConfigError where none is known.
        """
        with self._parted_store() as opened, self._lock(CHAMPION):
            current = self._champion(opened, project)
            before = [] if current is None else opened.before(self._owner(project), current.number)
            if not before:
                whose = "" if project is None else f" of project {project}"
                raise ConfigError(
                    f"no version of {self._model!r} was champion{whose} before this one: "
                    "see `ebseg models list`, and promote one by hand"
                )
            returned = opened.get(before[-1])
            self._require_descent(returned)
            require(returned)
            self._set_champion(opened, project, before[-1], reason, before[:-1])
            return opened.get(before[-1])

    def history(self, project: int | None = None) -> History:
        """List who was a project's own champion, or the base; since when and why; the newest last."""
        return self.histories().get(self._owner(project), [])

    def histories(self) -> dict[int | None, History]:
        """List the histories of all projects that had a champion of their own, None's the base's."""
        if not self._is_made:
            return {}
        with self._store() as opened:
            registered = opened.registered()
        return {
            project_of(HISTORY, tag): json.loads(text)
            for tag, text in (registered.tags if registered else {}).items()
            if tag == HISTORY or project_of(HISTORY, tag) is not None
        }

    def record_decision(self, version: Version, decision: Decision, *, champion: int | None = None) -> None:
        """Keep what the gate decided: headlines with the version, numbers and the whole with its run.

        ``champion``: the version that it was compared with.
        """
        told, headlines = decision.to_dict(), decision.headlines()
        tags = {
            "verdict": decision.verdict.value,
            **{name: f"{value:.4f}" for name, value in headlines.items()},
        }
        if champion is not None:
            told["compared_with"] = champion
            tags["compared_with"] = str(champion)
        with self._store() as opened:
            opened.client.log_text(run_of(version), json.dumps(told, indent=2) + "\n", DECISION_FILE)
            self._note(opened, version, headlines, tags)

    def decision(self, version: Version) -> dict[str, Any] | None:
        """Read what the gate decided about a version; None where it has not."""
        if version.run_id is None:
            return None
        with self._store() as opened, tempfile.TemporaryDirectory() as folder:
            if DECISION_FILE not in {file.path for file in opened.client.list_artifacts(version.run_id)}:
                return None
            path = opened.client.download_artifacts(version.run_id, DECISION_FILE, folder)
            decision: dict[str, Any] = json.loads(Path(path).read_text())
            return decision

    def record_live(self, model_version: str, live: Mapping[str, float]) -> None:
        """Keep what people's corrections say of the version of that name, or of its predictions."""
        version = next((each for each in reversed(self.versions()) if each.is_called(model_version)), None)
        if version is None:
            _log.debug("%s is no version of %r: its corrections are not kept", model_version, self._model)
            return
        numbers = {f"live.{name}": float(value) for name, value in live.items() if math.isfinite(value)}
        tags = {name: f"{value:.6g}" for name, value in numbers.items()}
        if not tags.items() <= version.tags.items():
            with self._store() as opened:
                self._note(opened, version, numbers, tags)

    @contextmanager
    def _parted_store(self) -> Iterator[Opened]:
        """Open MLflow once projects have their own champions where one was all projects': see ``part``."""
        with self._store() as opened:
            if self._settings.share == "project" and not is_parted(opened):
                with self._lock(CHAMPION):
                    if not is_parted(opened):  # another process may have been faster
                        part(opened)
            yield opened

    def _owner(self, project: int | None) -> int | None:
        """Tell whose a project's champion is: its own, or, None, all projects'."""
        return None if self._settings.share == "all" else project

    def _set_champion(
        self, opened: Opened, project: int | None, number: int, reason: str, before: Sequence[int]
    ) -> None:
        opened.set_champion(self._owner(project), number, reason, before)
        if self._settings.share == "all":
            opened.set_tag(SHARE_TAG, "all")

    def _champion(self, opened: Opened, project: int | None) -> Version | None:
        if self._owner(project) is not None:
            found = opened.aliased(own(CHAMPION, project))
            if found is not None and self.descends(found):
                return found
        return opened.aliased(CHAMPION)

    @property
    def _is_made(self) -> bool:
        """Whether there is anything to ask; MLflow would make a database first."""
        return is_made(self._settings.tracking_uri)

    @contextmanager
    def _store(self) -> Iterator[Opened]:
        """Open MLflow, and keep no connection: not over a fork, not to a file that may be replaced."""
        uri, client = self._settings.tracking_uri, None
        try:
            is_made(uri)  # raises for one that was deleted, in whose place an empty one would be made
            client = connect(uri)
            yield Opened(client, self._model)
        except EBSegError:
            raise
        except Exception as error:  # requests', SQLAlchemy's, boto3's: of whatever the store stands on
            raise MlflowUnavailable(
                f"MLflow's store {unusable(uri, error)}: start it, or set MLFLOW_TRACKING_URI to a running "
                "server's address or to sqlite:///FILE, or leave it out to keep models in EBSEG_HOME"
            ) from error
        finally:
            if client is not None:
                disconnect(client)

    def _lock(self, name: str) -> AbstractContextManager[None]:
        return locked(self._settings.home / f"{name}.lock")

    def _add(
        self,
        path: Path,
        *,
        key: str,
        run_id: str | None,
        tags: Mapping[str, str],
        released: str | None = None,
    ) -> Version:
        """Register a file, or the name of a released model, once for each key."""
        name = version_in(path)
        with self._lock("register"), self._store() as opened:
            versions = opened.versions()
            for version in versions:
                if version.tags.get("key") == key:
                    return version
            if not versions and opened.registered() is None:
                opened.client.create_registered_model(self._model)
            run_id = run_id or self._new_run(opened, name)
            where = {"file": path.name} if released is None else {"checkpoint": released}
            if released is None:
                upload(opened.client, run_id, path)
            created = opened.client.create_model_version(
                self._model,
                f"runs:/{run_id}/{MODEL_FOLDER}",
                run_id,
                tags={**tags, **where, "key": key, "model": self._settings.base_model, "model_version": name},
            )
            return version_of(created, [])

    def _new_run(self, opened: Opened, name: str) -> str:
        run_id: str = opened.client.create_run(
            experiment_id(opened.client, self._model), run_name=name
        ).info.run_id
        opened.client.set_terminated(run_id)
        return run_id

    def _note(
        self,
        opened: Opened,
        version: Version,
        numbers: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Write numbers as points of curves of the version's run, and tags of the version itself."""
        from mlflow.entities import Metric

        now = int(datetime.now(UTC).timestamp() * 1000)
        points = [Metric(_permitted(name), value, now, 0) for name, value in numbers.items()]
        opened.client.log_batch(run_of(version), metrics=points, synchronous=True)
        for name, value in tags.items():
            opened.client.set_model_version_tag(self._model, str(version.number), _permitted(name), value)


def resolve(name: str) -> Path:
    """Find the file of ``models:/NAME@ALIAS`` or ``models:/NAME/NUMBER``, for ``ebseg.load``.

    Raises ConfigError for another form and for an unknown version.
    """
    parts = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))", name)
    if parts is None:
        raise ConfigError(
            f"{name!r} names no registered model: write models:/NAME@champion or models:/NAME/3"
        )
    registry = Registry(load_settings(registered_model=parts[1]))
    return registry.checkpoint(registry.version(parts[2] or parts[3]))


def _permitted(name: str) -> str:
    """Keep what MLflow allows in the name of a curve or tag."""
    return re.sub(r"[^A-Za-z0-9 ._/-]+", "_", name)
