"""Timings against the other local rerankers, on the same weights and passages."""
