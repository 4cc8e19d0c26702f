"""The registered model in an MLflow that is open: its versions, aliases and tags."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.registry.aliases import CHAMPION, HISTORY, own
from training.registry.history import History, predecessors, succeed
from training.registry.version import Version, version_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.tracking import MlflowClient

PAGE = 1000
"""Versions that MLflow lists at a time."""


@dataclass(frozen=True)
class Opened:
    """The registered model of that name, as long as the client lives.

    ``owner`` is whose a champion is: a project's, or, None, the common one.
    """

    client: "MlflowClient"
    model: str

    def registered(self) -> "RegisteredModel | None":
        """Give the registered model, None where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def aliased(self, alias: str) -> Version | None:
        """Give the version that has an alias."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version_by_alias(self.model, alias)
        except MlflowException as error:
            # Without the model; without the alias.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return version_of(found, list(found.aliases))

    def get(self, number: int) -> Version:
        """Give the version of that number."""
        found = self.client.get_model_version(self.model, str(number))
        return version_of(found, list(found.aliases))

    def versions(self) -> list[Version]:
        """List all versions, the oldest first."""
        registered = self.registered()
        if registered is None:
            return []
        page = self.client.search_model_versions(f"name='{self.model}'", PAGE)
        found: list[ModelVersion] = list(page)
        while page.token:
            page = self.client.search_model_versions(f"name='{self.model}'", PAGE, page_token=page.token)
            found += page
        aliases: dict[int, list[str]] = {}
        for alias, number in registered.aliases.items():
            aliases.setdefault(int(number), []).append(alias)
        versions = [version_of(each, aliases.get(int(each.version), [])) for each in found]
        return sorted(versions, key=lambda version: version.number)

    def history(self, owner: int | None) -> History:
        """List who was champion; the newest last."""
        registered = self.registered()
        history: History = json.loads(registered.tags.get(own(HISTORY, owner), "[]")) if registered else []
        return history

    def before(self, owner: int | None, champion: int) -> list[int]:
        """List the versions to roll back to from the champion of now, the nearest last."""
        there = {version.number for version in self.versions()}
        return predecessors(self.history(owner), champion, there)

    def set_champion(self, owner: int | None, number: int, reason: str, before: Sequence[int]) -> None:
        """Move the alias, and write the history; ``before``: whom rollbacks return to."""
        text = succeed(self.history(owner), number, reason, before)
        self.client.set_registered_model_alias(self.model, own(CHAMPION, owner), str(number))
        self.set_tag(own(HISTORY, owner), text)

    def set_tag(self, name: str, text: str) -> None:
        """Write a tag."""
        self.client.set_registered_model_tag(self.model, name, text)
