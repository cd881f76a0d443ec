"""A run made to happen: the runner's loop, a stage's attempts, its machines, and what each stage must show."""
