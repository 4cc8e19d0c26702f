"""From one champion for all projects to one for each: what earlier versions registered is parted once."""

from training.registry.aliases import CANDIDATE, CHAMPION, own, project_of
from training.registry.opened import Opened
from training.registry.version import line_of

SHARE_TAG = "share"
"""Among whom a champion was shared when one was last chosen, as the setting says it; of long ago: all."""


def is_parted(opened: Opened) -> bool:
    """Tell whether nothing is left to do."""
    registered = opened.registered()
    return registered is None or registered.tags.get(SHARE_TAG) == "project"


def part(opened: Opened) -> None:
    """Leave the champion to the projects that it, or one that it comes from, was trained for.

    What it began with becomes the base again, which serves all other projects. Where that is not there any
    more, all keep what they have. May be ended at any point, and begins anew then.
    """
    _part_champion(opened)
    newest = opened.aliased(CANDIDATE)
    if newest is not None and "project" in newest.tags:
        alias = own(CANDIDATE, int(newest.tags["project"]))
        opened.client.set_registered_model_alias(opened.model, alias, str(newest.number))
        opened.client.delete_registered_model_alias(opened.model, CANDIDATE)
    opened.set_tag(SHARE_TAG, "project")


def _part_champion(opened: Opened) -> None:
    versions, champion = opened.versions(), opened.aliased(CHAMPION)
    line = [] if champion is None else line_of(champion, versions)
    projects = {int(each.tags["project"]) for each in line[:-1] if "project" in each.tags}
    if not projects or "base" in line[-1].tags:
        return
    there = {project_of(CHAMPION, alias) for each in versions for alias in each.aliases}
    before = opened.before(None, line[0].number)
    for project in sorted(projects.difference(there)):
        opened.set_champion(project, line[0].number, "it was all projects' champion", before)
    opened.set_champion(None, line[-1].number, "each project has a champion of its own from now on", [])
