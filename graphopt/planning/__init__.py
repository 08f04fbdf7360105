"""Budgets, gates and the choice among candidates, on plain numbers."""

CONFIDENCE = 0.95
"""That an interval holds what it is of, where nobody says otherwise: convention. It stands here so that
nothing has to be waited for to tell it."""
