"""What one command does with the parts, where that is more than showing them."""
