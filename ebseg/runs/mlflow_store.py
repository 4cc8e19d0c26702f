"""MLflow's store of runs and models, opened in one way, by however many processes at once.

MLflow is imported when a store is opened: its import takes a second.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ebseg.errors import MlflowUnavailable
from ebseg.files import locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own defaults make a caller wait for minutes at each call where a server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Set before MLflow is imported, each unless it is set already: it takes them from nowhere else."""

TRANSFER_SECONDS = 3600
"""For a server to take or give a model's file, which it may fetch from a store of its own first."""

_SQLITE = "sqlite:///"
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


def default_tracking_uri(root: Path) -> str:
    """Where MLflow keeps runs unless told otherwise: the SQLite database ``mlflow.db`` in ``root``.

    Pictures and files go to the folder ``mlruns`` beside it. To look at them:
    ``mlflow ui --backend-store-uri sqlite:///ROOT/mlflow.db``.
    """
    return f"{_SQLITE}{(root / 'mlflow.db').resolve()}"


def database_file(uri: str) -> Path | None:
    """Find the SQLite database that an address means; None for a server and other databases."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def is_made(uri: str) -> bool:
    """Tell whether a store is there to be asked: of a SQLite database, whether its file is.

    Raises MlflowUnavailable for a database that was there and is not any more.
    """
    database = database_file(uri)
    if database is None or database.exists():
        return True
    lock = _lock_of(database)
    if not lock.exists():
        return False
    with locked(lock):  # a process that is about to make it holds this
        if database.exists():
            return True
    raise MlflowUnavailable(
        f"MLflow's database {database} was there and is gone: put it back, or delete {lock} to begin anew"
    )


def _lock_of(database: Path) -> Path:
    """Name the file that is locked while a database is made; it stays."""
    return database.with_name(f"{database.name}.lock")


def connect(uri: str) -> "MlflowClient":
    """Open a store; a SQLite database is made if there is none.

    Raises whatever the store stands on raises: MLflow's, requests', SQLAlchemy's, boto3's errors.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    database = database_file(uri)
    if database is not None:
        _check_writable(database)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").addFilter(_is_no_error)
    # Two processes that make the tables at the same time would stumble over each other.
    with nullcontext() if database is None else locked(_lock_of(database)):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def disconnect(client: "MlflowClient") -> None:
    """Let go of the connections to a database: MLflow keeps them for as long as the process lives.

    MLflow has no call to close them. The client may go on being used, which opens new ones.
    """
    registry = getattr(client, "_registry_client_lazy", None)  # made when models are asked for
    for part in (client._tracking_client, registry):
        engine = getattr(part.store, "engine", None) if part is not None else None
        if engine is not None:
            engine.dispose()


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Find an experiment by its name, or create it."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # A server knows where its files go; a database alone would put them where the process happens to run.
    database = database_file(client.tracking_uri)
    files = None if database is None else database.with_name("mlruns").resolve().as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=files))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return experiment_id(client, name)  # another process was faster


def unusable(uri: str, error: Exception) -> str:
    """Say in one line which store failed and why, without the user and password of its address."""
    reason = " ".join(str(error).split())[:300]
    return without_secrets(f"{uri} cannot be used ({reason})", uri)


def without_secrets(text: str, uri: str) -> str:
    """Drop a user's name and password, which an address may hold."""
    secret = re.match(r"[^/]*//([^/?#]*@)", uri)
    return text.replace(secret[1], "") if secret else text


class _Patience:
    """How many transfers go on in this process, and the time that requests get when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transfers = 0
        self._usual: str | None = None

    def begin(self) -> None:
        with self._lock:
            if self._transfers == 0:
                self._usual = os.environ.get(_TIMEOUT)
                os.environ[_TIMEOUT] = str(TRANSFER_SECONDS)
            self._transfers += 1

    def end(self) -> None:
        with self._lock:
            self._transfers -= 1
            if self._transfers == 0:
                os.environ.pop(_TIMEOUT)
                if self._usual is not None:
                    os.environ[_TIMEOUT] = self._usual


_patience = _Patience()


@contextmanager
def patient() -> Iterator[None]:
    """Give a server the time that it needs for a large file; other requests must be answered at once.

    MLflow has this from the environment alone, which its transfers read in threads of their own: so it holds
    for the whole process, and as long as any of its transfers goes on.
    """
    _patience.begin()
    try:
        yield
    finally:
        _patience.end()


def _is_no_error(record: logging.LogRecord) -> bool:
    """Keep MLflow from printing a traceback of what it raises as well."""
    return record.levelno < logging.ERROR


def _check_writable(database: Path) -> None:
    """Notice a database that cannot be written at once; MLflow would try for minutes."""
    folder = database.parent
    if folder.exists() and not os.access(folder, os.W_OK):
        raise PermissionError(f"folder {folder} is not writable")
