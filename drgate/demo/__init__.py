"""The demo: the whole way once, on synthetic photographs."""
