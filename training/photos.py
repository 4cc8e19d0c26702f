"""Fetch photos as the settings say."""

from ebseg.label_studio.fetch import ImageFetcher
from training.settings import Settings


def photo_fetcher(settings: Settings) -> ImageFetcher:
    """Build the fetcher of photos. Raises FetchError for an address in the settings that cannot be one."""
    return ImageFetcher(
        label_studio_url=settings.label_studio_url,
        api_key=settings.label_studio_api_key,
        allowed_hosts=settings.allowed_hosts,
        timeout_s=settings.fetch_timeout,
        max_bytes=settings.max_bytes,
    )
