"""Parallel branches that become one operator."""
