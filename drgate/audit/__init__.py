"""Is the evidence clean? One module a question; each gives a `Check` (`drgate.audit.result`).

    from drgate.audit.collect import Asked, collect
    from drgate.audit.whole import audit

    collected = collect(Asked(Path("data"), train=(Path("eyepacs"),)), load_checklist("medical-grade"))
    found = audit(collected.evidence, collected.settings)
    found.exit_code, found.check("patients").status, found.digest

`collect` reads manifests, a model's fingerprint and predictions, which take a look; `evidence` examines each photograph
once; `whole` asks every question.
"""
