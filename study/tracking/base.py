"""What a study asks of a tracker, whichever backend answers."""

from __future__ import annotations


class TrackingError(RuntimeError):
    """The tracking server or store cannot be reached or used."""
