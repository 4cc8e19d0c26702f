"""``ebseg doctor``: what stands between Label Studio and its predictions, and what to do about it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from training.settings import load_settings

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    backend_url: Annotated[
        str | None, typer.Option(help="The backend's address as Label Studio reaches it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Walk the way of a photo: service, Label Studio, token, projects, learning loop, this machine.

    A line each, with the remedy where something is wrong; then the exit status is 1. Label Studio is asked
    to call the models of its projects, as it does when their settings are opened; nothing else changes there.

    Example: ebseg doctor --backend-url http://host.docker.internal:9090
    """
    from backend.checks import examine  # imports the API client, which takes two seconds

    settings = load_settings()
    findings = examine(settings, backend_url)
    if as_json:
        typer.echo(json.dumps([{"ok": finding.ok, **asdict(finding)} for finding in findings], indent=2))
    else:
        for finding in findings:
            line = f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.detail}"
            typer.echo(f"{line}. Remedy: {finding.remedy}" if finding.remedy else line)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
