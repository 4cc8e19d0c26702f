"""``ebseg models``: the versions of the model that learns, why they are served or not, and the way back."""

import json
import shlex
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ebseg.errors import ConfigError, EBSegError
from ebseg.runs.mlflow_store import without_secrets
from training.annotations.corrections import in_words
from training.queue.outcomes import Outcomes, Topic, outcomes, tell
from training.queue.plans import refresh
from training.queue.queues import connect
from training.registry.aliases import CANDIDATE, CHAMPION, own
from training.registry.decision import Verdict
from training.registry.registry import Registry
from training.registry.version import Version
from training.settings import Settings, load_settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at the model's versions; go back.")

Ref = Annotated[str, typer.Argument(metavar="VERSION", help="A version's number, alias or name.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
Project = Annotated[
    int | None, typer.Option(min=1, help="The project whose versions are meant; unset: the base of all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: ebseg models list --json")
def list_models(project: Project = None, as_json: AsJson = False) -> None:
    """List the versions, with what the gate and people's corrections say of them.

    champion-7 among a version's aliases says that project 7 is served that one; the base, champion, serves
    projects that have no champion of their own. --project 7 leaves out what was trained for others.
    """
    registry = _registry()
    versions = registry.versions()
    if project is not None:
        champion = registry.champion(project)
        versions = [each for each in versions if _concerns(each, project, champion)]
    if as_json:
        typer.echo(json.dumps([_as_dict(version) for version in versions], indent=2))
        return
    headers = ("version", "name", "aliases", "created", "mIoU", "gain", "verdict", "live IoU")
    rows = [_row(version) for version in versions]
    # rich cuts words of columns that have no least width: here that of the longest word.
    words = [" ".join(column).split() for column in zip(headers, *rows, strict=True)]
    table = Table(
        *(Column(header, min_width=max(map(len, each))) for header, each in zip(headers, words, strict=True))
    )
    for row in rows:
        table.add_row(*row)
    # In a terminal that is too narrow even so lines go on in the next one rather than being cropped.
    told = table if versions else "no versions yet: the first training registers the model"
    Console().print(told, crop=False)


@app.command(epilog="Example: ebseg models show champion --project 7")
def show(version: Ref, project: Project = None, as_json: AsJson = False) -> None:
    """Show a version: what the gate decided and why, each label's IoU, what it forgot, its live numbers.

    With --project 7 champion and candidate are that project's, as champion-7 and candidate-7 are without, and
    what the service's page shows of project 7 is shown too.
    """
    settings = load_settings()
    registry = _registry()
    found = _version(registry, version, project)
    decision = registry.decision(found)
    reigns = _reigns(registry, found, project)
    look = _where_to_look(settings, found)
    told_of_project = _told(settings, project)
    if as_json:
        topics = {topic: asdict(each) for topic, each in told_of_project.items()}
        told = {**_as_dict(found), "decision": decision, "champion": reigns, "look": look, "project": topics}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"version {found.number} ({', '.join(found.aliases) or 'no alias'}): {found.name}")
    typer.echo(f"created {found.created}, by MLflow's run {found.run_id}")
    for entry in reigns:
        whose = "" if entry["project"] is None else f" of project {entry['project']}"
        typer.echo(f"champion{whose} since {entry['at']}: {entry['reason']}")
    for topic, each in told_of_project.items():
        typer.echo(f"project {project}, {topic}: {each.words} ({each.at})")
    if Topic.LIVE not in told_of_project and (live := _live(found)):
        typer.echo(f"live: {live}")
    if decision is None:
        typer.echo("the gate has not looked at it")
    else:
        _print_decision(decision)
    typer.echo(f"in MLflow: {look}")


@app.command(epilog='Example: ebseg models promote 3 --project 7 --reason "better on night photos"')
def promote(
    version: Ref, project: Project = None, reason: Reason = "by hand", as_json: AsJson = False
) -> None:
    """Serve a version, whatever the gate says of it; its file has to load.

    --project 7 serves it to that project alone; without, to all projects that have no champion of their own.
    """
    registry = _registry()
    found, champion = _version(registry, version, project), registry.champion(project)
    _require_loadable(registry, found)
    number = None if champion is None else champion.number
    registry.promote(found, reason, project=project, expected_champion=number)
    _refresh(found, project, f"promoted: {reason}")
    _print_change(champion, found, project, as_json=as_json)


@app.command(epilog='Example: ebseg models rollback --project 7 --reason "it paints shadows as road"')
def rollback(project: Project = None, reason: Reason = "by hand", as_json: AsJson = False) -> None:
    """Serve a project the version that it was served before this one; once more goes back one more.

    Other projects keep theirs. Without --project it is the base that goes back.
    """
    registry = _registry()
    champion = registry.champion(project)
    returned = registry.rollback(reason, partial(_require_loadable, registry), project=project)
    _refresh(returned, project, f"the champion before it was returned to: {reason}")
    _print_change(champion, returned, project, as_json=as_json)


def _version(registry: Registry, ref: str, project: int | None) -> Version:
    """Find a version, the champion or candidate of a project where one is named."""
    return registry.version(own(ref, project) if ref in (CHAMPION, CANDIDATE) else ref)


def _concerns(version: Version, project: int, champion: Version | None) -> bool:
    """Tell whether a version was trained for a project, or is what it is served."""
    return version.tags.get("project") == str(project) or (
        champion is not None and version.number == champion.number
    )


def _reigns(registry: Registry, version: Version, project: int | None) -> list[dict[str, Any]]:
    """List since when and why a version was champion, the earliest first: of all projects, or of one."""
    return sorted(
        (
            {"project": owner, **entry}
            for owner, history in registry.histories().items()
            for entry in history
            if entry["version"] == version.number and project in (None, owner)
        ),
        key=lambda reign: str(reign["at"]),
    )


def _require_loadable(registry: Registry, version: Version) -> None:
    """Raise ConfigError for a version that no service could serve: its file is missing or damaged."""
    from ebseg.loading import load  # PyTorch takes seconds, and other commands do not need it

    file = f"its file {version.source}"
    try:
        path = registry.checkpoint(version)
        file = str(path)
        load(path, device="cpu")
    except EBSegError as error:
        raise ConfigError(
            f"version {version.number} ({version.name}) cannot be served, as {file} does not load ({error}): "
            "promote another version (`ebseg models list`), or put the file back"
        ) from error


def _refresh(version: Version, project: int | None, decision: str) -> None:
    """Have workers push the version's predictions and the project, or all, show its scores.

    ``decision``: why it is served, in words, for the service's page.
    """
    settings = load_settings()
    try:
        connection = connect(settings)
        if project is not None:
            words = f"version {version.number} ({version.name}): {decision}"
            tell(connection, project, Topic.DECISION, words)
        refresh(connection, settings, version.name, project)
    except ConfigError as error:
        typer.echo(f"ebseg: the predictions in Label Studio stay as they are: {error}", err=True)


def _live(version: Version) -> str:
    """Say what people made of a version's predictions; empty where nobody went over one."""
    prefix = "live."
    tags = version.tags.items()
    return in_words(
        {name.removeprefix(prefix): float(value) for name, value in tags if name.startswith(prefix)}
    )


def _told(settings: Settings, project: int | None) -> Outcomes:
    """Give what jobs told of a project, which Redis has; nothing where that is away."""
    if project is None:
        return {}
    try:
        return outcomes(connect(settings), [project])[project]
    except ConfigError as error:
        typer.echo(f"ebseg: what is known of project {project} is not shown: {error}", err=True)
        return {}


def _registry() -> Registry:
    settings = load_settings()
    settings.make_home()
    return Registry(settings)


def _row(version: Version) -> tuple[str, ...]:
    tags = version.tags
    return (
        str(version.number),
        version.name,
        ", ".join(version.aliases),
        version.created[:16].replace("T", " "),
        _rounded(tags.get("held_out_miou_candidate")),
        _rounded(tags.get("gain"), sign="+"),
        tags.get("verdict", ""),
        _rounded(tags.get("live.mean_iou"), times=100),
    )


def _as_dict(version: Version) -> dict[str, Any]:
    return {**asdict(version), "tags": dict(version.tags)}


def _rounded(number: str | None, sign: str = "", times: int = 1) -> str:
    return "" if number is None else format(float(number) * times, f"{sign}.1f")


def _print_change(before: Version | None, after: Version, project: int | None, *, as_json: bool) -> None:
    if as_json:
        number = None if before is None else before.number
        told = {"project": project, "from": number, "to": after.number, "name": after.name}
        typer.echo(json.dumps(told))
        return
    whose = "" if project is None else f" of project {project}"
    was = "there was no champion" if before is None else f"it was version {before.number} ({before.name})"
    typer.echo(f"the champion{whose} is version {after.number} ({after.name}); {was}")


def _print_decision(decision: dict[str, Any]) -> None:
    compared = decision.get("compared_with")
    other = "the champion" if compared is None else f"version {compared}"
    typer.echo(f"{decision['verdict']}, compared with {other}:")
    for reason in decision["reasons"]:
        typer.echo(f"  {reason}")
    if decision["verdict"] != Verdict.PROMOTE:  # whose reasons are these numbers
        _print_numbers(decision)
    if decision.get("cross_validated"):  # decisions of before there was any do not say
        typer.echo("cross-validated: each task was predicted by a model that was not trained on it")
    table = Table("label", "pixels", "before", "after", "change")
    for label in decision["labels"]:
        before, after = label["champion"], label["candidate"]
        if before is not None:
            change = _number(after - before, "+")
            name = Text(label["name"])  # no markup: people's labels are what they are
            table.add_row(name, str(label["pixels"]), _number(before), _number(after), change)
    Console().print(table)


def _print_numbers(decision: dict[str, Any]) -> None:
    miou, measured = decision["miou"], len(decision["held_out_tasks"])
    # Only tasks with labels count, to the gate too; earlier decisions do not say how many they are.
    count = decision.get("labelled_tasks", measured)
    blank = f" ({measured - count} more without labels)" if measured > count else ""
    typer.echo(
        f"held-out mIoU {_number(miou['champion'])} -> {_number(miou['candidate'])} on "
        f"{count} task{'' if count == 1 else 's'}{blank}, gain {_number(decision['gain'], '+')}, "
        f"at least {_number(decision['lower_bound'], '+')}"
    )
    for each in decision["forgetting"]:
        typer.echo(
            f"{each['name']}: mIoU {_number(each['before'])} -> {_number(each['after'])}, "
            f"{each['lost']:.1%} lost"
        )


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else format(value, f"{sign}.1f")


def _where_to_look(settings: Settings, version: Version) -> str:
    """Tell how to see a version on MLflow's page."""
    uri = without_secrets(settings.tracking_uri, settings.tracking_uri)
    page = f"#/models/{settings.registered_model}/versions/{version.number}"
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}, then http://127.0.0.1:5000/{page}"
