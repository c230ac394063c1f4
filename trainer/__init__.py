"""Fine-tuning of the grading model: `drtrain`. drgate never imports it; the checkpoint connects them."""
