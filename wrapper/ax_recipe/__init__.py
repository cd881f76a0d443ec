"""ax-recipe: a recipe goes in, a fine-tuned model answering in Ollama comes out."""

__version__ = "0.1.0"
