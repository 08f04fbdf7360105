"""The flows: scan, exact rounds, approximate, expanding, sweep; their options and journal."""
