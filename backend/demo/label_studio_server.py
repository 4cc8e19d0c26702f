"""A Label Studio server of our own: start it, log in, fill a project and have it pre-annotated."""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Self, cast

import httpx
from label_studio_sdk import LabelStudio, Prediction
from label_studio_sdk.core import ApiError

from backend.processes import ServerProcess, free_port
from ebseg.errors import EBSegError

EMAIL = "admin@localhost.dev"
PREFERRED_PORT = 8080
START_SECONDS = 300.0
"""The first start makes the database: 15-60 s on two cores, more on a busy machine."""

CALL_SECONDS = 120
"""Longer than the 100 s that Label Studio itself waits for a backend's predictions."""

UPLOAD_FILES = 20
"""Photos in one upload; Label Studio refuses more than 100."""

FOREIGN_SETTINGS = ("LABEL_STUDIO_", "HEARTEX_", "DJANGO_", "POSTGRE_", "HOST")
"""Variables of the user's shell that would bend our server to another database or address."""


class LabelStudioError(EBSegError):
    """Label Studio refused a call that the demo needs."""


@dataclass
class _Secrets:
    """What one data folder's server and its user are known by; kept in a file only we can read."""

    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)
    access_token: str | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))


class LabelStudioServer:
    """Label Studio as a child process, all its data under one folder.

    The database, the password and the token are found again at the next start in the same folder.
    """

    client: LabelStudio
    """The official API client, logged in."""

    access_token: str
    """The user's personal access token, from which API clients make their short-lived ones."""

    def __init__(self, executable: Path, folder: Path, port: int | None = None) -> None:
        self._executable = executable
        self.folder = folder
        self._secrets_file = folder / "secrets.json"
        self._secrets = _Secrets.load(self._secrets_file)
        self._port = free_port(PREFERRED_PORT) if port is None else port
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = ServerProcess("Label Studio", self.url, folder / "label-studio.log")
        self.email = EMAIL

    @property
    def password(self) -> str:
        """The password of the one user, ``email``."""
        return self._secrets.password

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run the server until the block is left; inside it there are ``access_token`` and ``client``.

        Raises LabelStudioError when it is not installed and ServerProcessError when it does not start.
        """
        if not os.access(self._executable, os.X_OK):
            raise LabelStudioError(f"Label Studio is not installed at {self._executable}: run `make demo`")
        self._secrets.save(self._secrets_file)
        command = [str(self._executable), "start", "--no-browser", "--internal-host", "127.0.0.1"]
        with (
            self.process.running([*command, "--port", str(self._port)], self._environment()),
            httpx.Client(timeout=CALL_SECONDS, follow_redirects=True) as connection,
        ):
            self.process.wait_until_ready("/health", START_SECONDS)
            if self._secrets.access_token is None:
                self._secrets.access_token = _create_access_token(self)
                self._secrets.save(self._secrets_file)
            self.access_token = self._secrets.access_token
            self.client = LabelStudio(base_url=self.url, api_key=self.access_token, httpx_client=connection)
            yield self

    def authorization(self) -> dict[str, str]:
        """Give the header that lets a request through for the next five minutes."""
        token = self.client.tokens.refresh(refresh=self.access_token).access
        return {"Authorization": f"Bearer {token}"}

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)
        }
        return inherited | {
            "LABEL_STUDIO_BASE_DATA_DIR": str((self.folder / "label-studio").resolve()),
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            "SECRET_KEY": self._secrets.secret_key,
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            # Without these two Label Studio refuses a backend, and its webhook, on this machine.
            "ML_BLOCK_LOCAL_IP": "false",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
        }


class Project:
    """A project of a running server."""

    def __init__(self, server: LabelStudioServer, title: str, label_config: str) -> None:
        """Create the project; its tasks open with their predictions."""
        self._server = server
        with _reported("create the project"):
            project = self._client.projects.create(
                title=title, label_config=label_config, show_collab_predictions=True
            )
        self.id = cast(int, project.id)
        self.url = f"{server.url}/projects/{self.id}/data"

    @property
    def _client(self) -> LabelStudio:
        return self._server.client  # another one after each start of the server

    def upload(self, photos: Sequence[Path]) -> list[int]:
        """Upload photo files; give their tasks' ids in the order of ``photos``.

        Raises LabelStudioError when Label Studio refuses an upload.
        """
        task_ids: list[int] = []
        for start in range(0, len(photos), UPLOAD_FILES):
            batch = photos[start : start + UPLOAD_FILES]
            answer = httpx.post(  # the SDK's import takes JSON only
                f"{self._server.url}/api/projects/{self.id}/import",
                params={"return_task_ids": "true"},
                headers=self._server.authorization(),
                # Of files under one name Label Studio takes only the last.
                files=[(str(n), (photo.name, photo.read_bytes())) for n, photo in enumerate(batch)],
                timeout=CALL_SECONDS,
            )
            if answer.status_code != HTTPStatus.CREATED:
                raise LabelStudioError(
                    f"Label Studio refused the upload of {batch[0]} and others: {answer.text[:500]}"
                )
            task_ids += answer.json()["task_ids"]
        return task_ids

    def change_label_config(self, label_config: str) -> None:
        """Replace the project's label config."""
        with _reported("change the label config"):
            self._client.projects.update(self.id, label_config=label_config)

    def connect(self, backend_url: str) -> None:
        """Make a machine learning backend the project's own."""
        with _reported(f"connect the backend {backend_url}"):
            self._client.ml.create(project=self.id, url=backend_url, title="EBSeg")

    def retrieve_predictions(self, task_ids: Sequence[int]) -> list[int]:
        """Have Label Studio ask the backend about these tasks; give those that carry masks now."""
        with _reported("retrieve predictions"):
            self._client.actions.create(
                id="retrieve_tasks_predictions",
                project=self.id,
                selected_items={"all": False, "included": list(task_ids)},
            )
            return [task for task in task_ids if any(stored.result for stored in self.predictions(task))]

    def predictions(self, task_id: int) -> list[Prediction]:
        """List a task's predictions as Label Studio stores them."""
        stored: list[Prediction] = self._client.predictions.list(task=task_id)
        return stored

    def show_scores_of(self, model_version: str) -> None:
        """Fill the Data Manager's score column; Label Studio reads it for one version of a model only."""
        with _reported("choose the model version"):
            self._client.projects.update(self.id, model_version=model_version)


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turn the API client's errors into one line."""
    try:
        yield
    except ApiError as error:
        raise LabelStudioError(
            f"Label Studio could not {what}: status {error.status_code}, {error.body}"
        ) from error
    except httpx.HTTPError as error:
        raise LabelStudioError(f"Label Studio could not {what}: {error!r}") from error


def _create_access_token(server: LabelStudioServer) -> str:
    """Log in as a browser does and make a personal access token; Label Studio shows it only this once."""
    login = f"{server.url}/user/login/"
    with httpx.Client(timeout=CALL_SECONDS, headers={"Referer": login}) as browser:
        browser.get(login).raise_for_status()
        form = {"email": server.email, "password": server.password}
        browser.post(login, data=form | {"csrfmiddlewaretoken": browser.cookies["csrftoken"]})
        answer = browser.post(
            f"{server.url}/api/token/", headers={"X-CSRFToken": browser.cookies["csrftoken"]}
        )
    if answer.status_code != HTTPStatus.CREATED:
        raise LabelStudioError(
            f"Label Studio gave no access token ({answer.status_code}): the database in {server.folder} "
            "has another password, or its token was lost. Move that folder away and start again."
        )
    return str(answer.json()["token"])
