"""What a training takes, by closed forms over a model's shape and its settings: memory, disk, network and time."""
