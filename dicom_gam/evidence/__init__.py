"""Judging bundles: evaluation, suitability, faithfulness."""
