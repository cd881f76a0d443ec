"""What a model is to learn from: its rows, the form they have, what of them is trained, and how long they are."""
