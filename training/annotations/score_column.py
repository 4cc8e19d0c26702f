"""Whose scores a project shows: the Data Manager's column, which uncertainty sampling goes by."""

from collections.abc import Callable, Collection

from ebseg.label_studio.version import model_of
from training.annotations.label_studio import LabelStudioClient, LabelStudioProject


def show_scores(
    studio: LabelStudioClient, project_id: int, version: str, ours: Callable[[], Collection[str]]
) -> bool:
    """Have a project show a version's scores, unless somebody chose those of another model.

    Tells whether nothing is left to do: Label Studio takes no version of which it has no prediction yet.
    ``ours``: lists the versions of the model that learns. Raises what LabelStudioClient and ``ours`` raise.
    """
    project = studio.project(project_id)
    if project.model_version == version or not _is_ours(studio, project, version, ours):
        return True
    return studio.set_model_version(project_id, version)


def _is_ours(
    studio: LabelStudioClient, project: LabelStudioProject, version: str, ours: Callable[[], Collection[str]]
) -> bool:
    """Tell whether nobody chose what a project shows.

    It is nothing, the title of a model, as Label Studio has it show when one is connected, or another version
    of ours.
    """
    shown = project.model_version
    if not shown or model_of(shown) == model_of(version):
        return True
    return model_of(shown) in ours() or shown in [model.title for model in studio.backends(project.id)]
