"""``ebseg serve``: the service under waitress, one process and many threads."""

import errno
import logging
import signal
import socket
from typing import Annotated

import typer

from backend.app import create_app
from backend.server import Server
from ebseg.errors import ConfigError
from training.settings import WAITING_THREADS, Settings, load_settings

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
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a line for each request under load
    _serve(settings, listen(settings.host, settings.port))


def _serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C, or until the model turns out not to load, which raises ConfigError.

    There is nothing to serve then. Whatever started the process sees it end and can start it again, say
    after a failed download.
    """
    application = create_app(settings)
    service = application.extensions["ebseg"]
    threads = settings.threads + WAITING_THREADS
    server = Server(application, listener, threads=threads, most_body=settings.max_request_bytes)

    def stop(*_signal: object) -> None:
        service.stop()
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    shown = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    typer.echo(f"Serving {settings.model} at http://{shown}:{listener.getsockname()[1]} (Ctrl-C stops)")
    service.model.on_failure(stop)
    server.run()
    if service.model.failure:
        raise ConfigError(service.model.failure)


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
