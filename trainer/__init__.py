"""Fine-tuning of the grading model: `drtrain`. drgate never imports it; what passes between them is the checkpoint."""
