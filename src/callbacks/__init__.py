"""What watches a run: each callback one purpose, called in order with values, never with the trainer."""
