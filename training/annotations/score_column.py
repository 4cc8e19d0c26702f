"""Whose scores a project shows: the Data Manager's column, which uncertainty sampling goes by."""

from collections.abc import Callable, Collection

from ebseg.label_studio.version import model_of, without_memory
from training.annotations.label_studio import LabelStudioClient, LabelStudioProject


def show_scores(
    studio: LabelStudioClient,
    project: LabelStudioProject,
    version: str,
    ours: Callable[[], Collection[str]],
    *,
    whole: bool = False,
) -> bool:
    """Have a project show a version's scores and masks, unless somebody chose those of another model.

    Tells whether nothing is left to do: Label Studio takes no version of which it has no prediction yet. So a
    project that has none at all is only read: to list its models Label Studio calls and stores each. And it
    shows nothing of tasks that have no prediction. So a version that differs from the one shown by its memory
    alone, as each Submit makes one, is left to whoever has predicted the ``whole`` project with it.
    ``project``: as it is now. ``ours``: lists the versions of the model that learns. Raises what
    LabelStudioClient and ``ours`` raise.
    """
    now = project.model_version
    if now == version or (now and not whole and without_memory(now) == without_memory(version)):
        return True
    if not project.predictions:
        return False
    return not _is_ours(studio, project, version, ours) or studio.set_model_version(project.id, version)


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
