"""Measurements of attention: entropy, focus, similarity, maps, occlusion; numbers, no plots."""
