"""Measures of whether a photograph can be graded: field of view, focus, exposure, contrast, size."""

from __future__ import annotations

from PIL import Image


def measures(image: Image.Image, copy: Image.Image, box: tuple[int, int, int, int]) -> dict[str, float]:
    """By name. image: as decoded, upright RGB. copy, box: `drgate.preprocessing.reduced_copy` of it."""
    return {}
