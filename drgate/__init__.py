"""drgate judges diabetic retinopathy grading models by a written checklist before they are released.

    manifest -> score -> predictions -> evaluate -> evaluation -> certify -> certificate -> export

Not a medical device: a certificate states only that a model meets a written checklist on a named test set.
"""

__version__: str
__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, read on first use: reading it would take a tenth of the time that a gate may take."""
    if name == "__version__":
        from importlib.metadata import version

        return version("drgate")
    raise AttributeError(f"module 'drgate' has no attribute {name!r}")
