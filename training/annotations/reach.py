"""Whether Label Studio answers and takes the token, seen by one cheap call."""

from ebseg.errors import FetchError
from ebseg.label_studio.fetch import ImageFetcher
from training.settings import Settings

PROBE_SECONDS = 5.0
"""For Label Studio to answer a probe, after which it counts as away."""


def require_label_studio(settings: Settings) -> None:
    """Raise TokenRefused, Refused or Unreachable where nothing can be had of Label Studio now."""
    ImageFetcher(
        label_studio_url=settings.label_studio_url,
        api_key=settings.label_studio_api_key,
        timeout_s=PROBE_SECONDS,
    ).require_access()


def why_away(settings: Settings) -> str | None:
    """Say why nothing can be had of Label Studio now; None where it answers and takes the token."""
    try:
        require_label_studio(settings)
    except FetchError as error:
        return str(error)
    return None
