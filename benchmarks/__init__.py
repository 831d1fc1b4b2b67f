"""How fast: kernels, memory, the host and GPT-2, measured side by side; a pytest suite of its own."""
