"""What a clinician would not look at: properties of a photograph's file (acquisition) and of its pixels (content)."""

from __future__ import annotations

from PIL import Image


def properties(data: bytes, image: Image.Image) -> dict[str, float | str]:
    """By name. data: the file's bytes. image: as decoded from them, upright RGB."""
    return {}
