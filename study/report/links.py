"""The links of the report's page to the web pages of a study's trials."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit


class Links(Protocol):
    """Finds the web pages of a study's trials, as every ``study.tracking.Tracker`` does.

    A method returns None if there is no such page. The report leaves out addresses that are neither http nor
    https.
    """

    def trial_link(self, key: str) -> str | None:
        """Return the address of the page of the trial with this key."""

    def curve_link(self, key: str) -> str | None:
        """Return the address of the file with every iteration of a trial."""

    def optimizer_link(self, workload: str, optimizer: str) -> str | None:
        """Return the address of the page of an optimizer's trials on a workload."""


class NoLinks:
    """The links of a report without links."""

    def trial_link(self, key: str) -> None:
        """Return None."""

    def curve_link(self, key: str) -> None:
        """Return None."""

    def optimizer_link(self, workload: str, optimizer: str) -> None:
        """Return None."""


def web_address(link: str | None) -> str | None:
    """Return ``link`` if it is an http or https address, which a browser may follow; otherwise None."""
    return link if link and urlsplit(link).scheme in ("http", "https") else None
