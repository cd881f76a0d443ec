"""What a person sees of a run: one screen on a terminal, plain lines everywhere else."""
