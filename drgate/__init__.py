"""drgate: the gate that a diabetic retinopathy grading model passes before it ships.

    manifest -> score -> predictions -> evaluate -> evaluation -> certify -> certificate -> export

Not a medical device: a certificate says that a model meets a written checklist on a named test set, and no more.
"""

__version__: str
__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, read where it is asked for: what reads it takes a tenth of the time that a gate has."""
    if name == "__version__":
        from importlib.metadata import version

        return version("drgate")
    raise AttributeError(f"module 'drgate' has no attribute {name!r}")
