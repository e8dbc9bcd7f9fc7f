"""Training: a function of models, a task, an optimiser and data, and what watches it."""
