"""Fetch photos as the settings say."""

import time
from collections.abc import Callable

from ebseg.errors import Unreachable
from ebseg.label_studio.fetch import ImageFetcher
from training.settings import Settings

PAUSES = (0.0, 1.0, 3.0, 9.0)
"""Seconds before a photo is asked for again: a server may be busy, but some photos are gone for good."""


def photo_fetcher(settings: Settings, hostname: str = "") -> ImageFetcher:
    """Build the fetcher of photos; ``hostname``: what Label Studio calls itself, where that is known.

    Raises Refused for an address in the settings that cannot be one.
    """
    return ImageFetcher(
        label_studio_url=settings.label_studio_url,
        hostname=hostname,
        api_key=settings.label_studio_api_key,
        allowed_hosts=settings.allowed_hosts,
        timeout_s=settings.fetch_timeout,
        max_bytes=settings.max_bytes,
    )


class PatientFetcher:
    """Fetches photos for a job, which has time: what cannot be had now is asked for again.

    ``wait``: returns when Label Studio answers, or raises where it is away. ``patience``: seconds of pauses
    for all photos together; then each is asked for once more, at once.
    """

    def __init__(self, photos: ImageFetcher, wait: Callable[[], object], patience: float) -> None:
        self._photos = photos
        self._wait = wait
        self._patience = patience

    def fetch(self, url: str, *, task_id: int | None) -> bytes:
        """Download a photo. Raises what ``ImageFetcher.fetch`` raises, and what ``wait`` does."""
        for pause in PAUSES:
            try:
                return self._photos.fetch(url, task_id=task_id)
            except Unreachable:
                self._wait()
                if pause > self._patience:
                    raise
                self._patience -= pause
                time.sleep(pause)
        return self._photos.fetch(url, task_id=task_id)
