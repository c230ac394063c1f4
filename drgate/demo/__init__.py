"""The demo: all steps from training to export, on synthetic photographs."""
