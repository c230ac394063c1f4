"""Is it known what the model was trained on, by it and by the models before it?

The other questions about leakage use `beyond`: what a model may have seen that nothing at hand shows is never clean.
"""

from __future__ import annotations

from drgate.audit.evidence import Evidence
from drgate.audit.result import Check

_NO_FINGERPRINT = (
    "The model has no fingerprint of its training images, so it is not known whether the photographs given are all "
    "that it was trained on. drtrain writes one into each checkpoint."
)

_DECLARED = (
    "The model has no fingerprint of its training images. The training data that was given is taken for all of it; "
    "nothing shows that the model was trained on no other."
)


def check(evidence: Evidence) -> Check:
    """Clean where the fingerprint covers the training images of the model and of all models before it. The pretraining
    of the base model is only what its makers declare."""
    if not evidence.model:
        reason = "No model was given, so what it was trained on was not looked at; give --checkpoint."
        return Check("lineage", "not_assessed", reason=reason)
    fingerprint = evidence.fingerprint
    compared = {} if fingerprint is None else {"train": len(fingerprint.images) + len(fingerprint.older)}
    if missing := evidence.unknown_data or (_NO_FINGERPRINT if fingerprint is None else ""):
        stated = _DECLARED if _only_declared(evidence) else missing
        reason = f"{stated} {_pretraining(evidence)}"
        return Check("lineage", "not_assessed", compared=compared, reason=reason)
    return Check("lineage", "clean", compared=compared, reason=_pretraining(evidence))


def beyond(evidence: Evidence) -> str:
    """Why the model may have seen images that neither the training photographs at hand nor its fingerprint show, or why
    there is nothing to compare with; empty where all is shown."""
    if _only_declared(evidence):
        return ""
    if evidence.model:
        return evidence.unknown_data or (_NO_FINGERPRINT if evidence.fingerprint is None else "")
    return (
        "" if evidence.train is not None else "There is nothing to compare with; give the training set or --checkpoint."
    )


def _only_declared(evidence: Evidence) -> bool:
    """Whether what the caller gives as training data is all that is known of it."""
    return evidence.declared and evidence.fingerprint is None and evidence.train is not None


def unread(evidence: Evidence) -> str:
    """Why it is not known whether the training photographs at hand are those of the fingerprint: none was read; empty
    where it is known."""
    if evidence.fingerprint is None or evidence.train is None or len(evidence.train.readable):
        return ""
    return "No training photograph was read, so it is not known whether they are all that the model was trained on."


def covered(evidence: Evidence) -> bool:
    """Whether every image of the fingerprint is among the training photographs at hand, by equal hash; True without a
    fingerprint."""
    if evidence.fingerprint is None:
        return True
    if evidence.train is None or len(evidence.fingerprint.older):
        return False
    return {*map(bytes, evidence.fingerprint.images)} <= {*map(bytes, evidence.train.hashes)}


def _pretraining(evidence: Evidence) -> str:
    return f"Pretraining of the base model: {evidence.pretraining or 'unknown'}. Its images were not compared."
