"""Readers of videos, pictures and data sets, made clips, and pictures of results. NumPy, except `synthetic` (JAX)."""
