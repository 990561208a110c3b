"""The links of the report's page to the web pages of a study's trials."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit


class Links(Protocol):
    """Finds the web pages of a study's trials, as every ``study.tracking.Tracker`` does.

    A method returns None if there is no such page. The report leaves out addresses that are not http or
    https.
    """

    def trial_link(self, key: str) -> str | None:
        """Return the page of the trial with this key."""

    def curve_link(self, key: str) -> str | None:
        """Return the page of the file with every iteration of a trial."""

    def optimizer_link(self, workload: str, optimizer: str) -> str | None:
        """Return the page of an optimizer's trials on a workload."""


class NoLinks:
    """The links of a report without any."""

    def trial_link(self, key: str) -> None:
        """Return None."""

    def curve_link(self, key: str) -> None:
        """Return None."""

    def optimizer_link(self, workload: str, optimizer: str) -> None:
        """Return None."""


def web_address(link: str | None) -> str | None:
    """Return ``link`` if a browser may follow it from a page: an http or https address."""
    return link if link and urlsplit(link).scheme in ("http", "https") else None
