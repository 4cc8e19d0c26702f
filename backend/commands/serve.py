"""``ebseg serve``: the service under gunicorn, one process and many threads."""

import errno
import logging
import os
import socket
from multiprocessing import SimpleQueue
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from backend.app import create_app
from ebseg.errors import ConfigError, EBSegError
from training.settings import Settings, load_settings

# Seconds that a stopping process may take to finish the photos that it has begun.
GRACEFUL_SECONDS = 60

# Seconds without a sign of life after which the worker is replaced; loading a model can hold it up for some.
WORKER_TIMEOUT_SECONDS = 120

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    model: Annotated[str | None, typer.Option(help="Model name or checkpoint file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.")] = None,
) -> None:
    """Serve predictions to Label Studio until stopped.

    What is not given here comes from the environment: EBSEG_MODEL, EBSEG_HOST, EBSEG_PORT, and the rest of
    the EBSEG_* settings, LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY.

    Example: ebseg serve --model ebseg-base --port 9090
    """
    settings = load_settings(model=model, host=host, port=port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses whole, with their signatures
    listener = listen(settings.host, settings.port)
    shown = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    typer.echo(f"Serving {settings.model} at http://{shown}:{listener.getsockname()[1]} (Ctrl-C stops)")
    failures: SimpleQueue[str] = SimpleQueue()
    try:
        _Server(settings, listener, failures).run()
    except SystemExit:
        if not failures.empty():
            raise ConfigError(failures.get()) from None
        raise


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to listen on. Raises ConfigError if the port is in use or may not be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = "in use" if error.errno == errno.EADDRINUSE else f"not to be had ({error})"
        raise ConfigError(
            f"port {port} of {host} is {reason}; stop what listens there, or choose with --port and --host"
        ) from None


class _Worker(ThreadWorker):
    """Threads of one process, which ends in order: what is begun is finished, the rest left out."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if isinstance(self.wsgi, Flask):
            self.wsgi.extensions["ebseg"].stop()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C: gunicorn's own way would drop the request, and with it the photos that it has finished.
        self.handle_exit(sig, frame)


class _Server(BaseApplication):
    """Gunicorn with our settings; its own environment variables and files are not read."""

    def __init__(self, settings: Settings, listener: socket.socket, failures: "SimpleQueue[str]") -> None:
        self._settings = settings
        self._listener = listener
        self._failures = failures
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"fd://{self._listener.detach()}",
            "workers": 1,  # the model is held once
            "worker_class": _Worker,
            "threads": self._settings.threads,
            "timeout": WORKER_TIMEOUT_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        # Called in the worker: the model's thread would not survive the fork.
        try:
            application = create_app(self._settings)
        except EBSegError as error:
            self._give_up(str(error))
        application.extensions["ebseg"].model.on_failure(self._give_up)
        return application

    def _give_up(self, reason: str) -> NoReturn:
        """End the worker, and with it the server: there is nothing to serve.

        Whatever started the server sees it end and can start it again, say after a failed download.
        """
        self._failures.put(reason)
        os._exit(Arbiter.APP_LOAD_ERROR)  # from the model's thread; tells gunicorn not to try again
