"""What comes out: the merged folder checked, the chat template carried over, the Modelfile, the model in Ollama."""
