"""Runs: a budget's allocation answered by an engine, with nothing lost and nothing overspent."""
