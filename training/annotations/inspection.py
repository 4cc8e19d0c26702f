"""What ``ebseg doctor`` asks of Label Studio besides what the learning loop does."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
from label_studio_sdk.core.api_error import ApiError

from ebseg.errors import EBSegError, Unreachable
from ebseg.label_studio.server import Server, server_address, shown
from training.annotations.label_studio import OPTIONS, LabelStudioClient, faults
from training.settings import Settings

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio


class Objection(EBSegError):
    """Label Studio would not call an address: its own words."""


class NoAddress(Objection):
    """Label Studio does not take it for an address: a host's name without a dot, where a webhook is asked."""


class Unresolved(Objection):
    """Label Studio finds no host of this name."""


class StudioInspection(LabelStudioClient):
    """The same client, for looking at how things are set up."""

    def projects(self, count: int) -> list[int]:
        """List the projects that the token's user sees: the newest ``count``."""

        def listed(sdk: "LabelStudio") -> list[int]:
            page: Any = sdk.projects.list(
                page=1, page_size=count, include="id", ordering="-created_at", request_options=OPTIONS
            )
            return [project.id for project in page.items or () if project.id is not None]

        return self._call("its projects", listed)

    def webhooks(self, project_id: int) -> list[str]:
        """List the addresses that are called when something happens in a project."""
        found = self._call(
            f"the webhooks of project {project_id}",
            lambda sdk: sdk.webhooks.list(project=str(project_id), request_options=OPTIONS),
        )
        return [webhook.url for webhook in found if webhook.is_active]

    def require_backend_address(self, url: str) -> None:
        """Ask to add a model to no project: the address is checked first, and nothing is added.

        Raises an Objection where Label Studio would not call it.
        """
        self._call(
            "a model's address",
            lambda sdk: _objection(lambda: sdk.ml.create(url=url, project=0, request_options=OPTIONS), url),
        )

    def require_webhook_address(self, url: str) -> None:
        """Ask for a webhook with an unknown action: the address is checked too, and nothing is made.

        Raises an Objection where Label Studio would not call it.
        """
        actions: Any = ["NO_SUCH_ACTION"]
        self._call(
            "a webhook's address",
            lambda sdk: _objection(
                lambda: sdk.webhooks.create(url=url, actions=actions, request_options=OPTIONS), url
            ),
        )


def require_health(settings: Settings, seconds: float) -> None:
    """Raise Unreachable where no Label Studio answers within so many seconds, and Refused where it has moved.

    It needs no token. Raises Refused for an address that cannot be one.
    """
    server = server_address(settings.label_studio_url)
    hooks = {"response": [Server(server).require_no_redirect]}
    try:
        with httpx.Client(timeout=seconds, event_hooks=hooks) as http:
            status = http.get(f"{server}health").status_code
    except httpx.HTTPError as error:
        raise Unreachable(f"{shown(server)} does not answer ({error})") from error
    if status != httpx.codes.OK:
        raise Unreachable(f"{shown(server)}health answers {status}")


def _objection(ask: Callable[[], object], url: str) -> None:
    """Ask for what must be refused; how it is refused tells what Label Studio thinks of the address."""
    try:
        ask()
    except ApiError as error:
        body = error.body if isinstance(error.body, dict) else {}
        detail = str(body.get("detail") or f"status {error.status_code}")
        if "resolve hostname" in detail:
            raise Unresolved(detail) from error
        if error.status_code == httpx.codes.BAD_REQUEST:
            if "url" in faults(error):
                raise NoAddress(f"it takes {url} for no address") from error
            return  # it minds what it should
        if error.status_code == httpx.codes.FORBIDDEN:
            raise Objection(detail) from error
        raise
