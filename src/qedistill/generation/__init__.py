"""Generators of expansions: teacher and student."""
