"""The same Hypothesis examples in every run: what these tests say about a release must not depend on luck."""

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("deterministic")
