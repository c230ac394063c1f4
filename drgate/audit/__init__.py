"""Is the evidence clean? One module a question; each gives a `Check` (`drgate.audit.result`)."""
