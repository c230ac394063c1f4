"""drgate: the gate that a diabetic retinopathy grading model passes before it ships.

    manifest -> score -> predictions -> evaluate -> evaluation -> certify -> certificate -> export

Not a medical device: a certificate says that a model meets a written checklist on a named test set, and no more.
"""

from importlib.metadata import version

__version__ = version("drgate")
__all__ = ["__version__"]
