"""Distil an LLM's query expansion into a small model and align it with retrieval feedback."""
