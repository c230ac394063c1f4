"""The verbs with each thing that they are given by its name: which of their types holds it, these know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from drgate.certificate.keys import PublicKey
from drgate.checklist import Checklist
from drgate.judge import Evidence, Judgement, Output, Source, Test, judge
from drgate.verify import Given, Rescoring, Trust, Verification, verify

_T = TypeVar("_T")


def _taken(kind: type[_T], asked: dict[str, Any], **more: Any) -> _T:
    """What belongs to this type, out of what is asked."""
    return kind(**more, **{one.name: asked.pop(one.name) for one in fields(kind) if one.name in asked})  # type: ignore[arg-type]


def verified(
    path: Path, *, trusted: Sequence[PublicKey] = (), deep: Rescoring | None = None, **asked: Any
) -> Verification:
    trust = _taken(Trust, asked, keys=trusted)
    return verify(path, trust, Given(**asked), deep=deep)


def judged(path: Path, *, checklist: Checklist, out: Path | None = None, **asked: Any) -> Judgement:
    source, test, evidence = _taken(Source, asked, path=path), _taken(Test, asked), _taken(Evidence, asked)
    output = Output(out, **asked)
    return judge(source, checklist, test=test, evidence=evidence, output=output)


def exported(
    path: Path,
    *,
    certificate: Path,
    checklist: Checklist,
    out: Path,
    trusted: Sequence[PublicKey] = (),
    precision: str = "fp32",
    **asked: Any,
) -> Any:
    from drgate.export import export  # torch

    trust = _taken(Trust, asked, keys=trusted)  # first: scorers are of the certificate's table
    source, test = _taken(Source, asked, path=path), _taken(Test, asked)
    return export(source, certificate, checklist, out, test=test, trust=trust, precision=precision, **asked)
