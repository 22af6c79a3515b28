"""Runs side by side: tables, effects, differences and a page. Reads records only; no TensorFlow, no Hydra in here."""
