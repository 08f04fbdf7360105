"""Budgets, gates and the choice among candidates, on plain numbers."""

CONFIDENCE = 0.95
"""That an interval holds what it is of, where nobody says otherwise: by convention (Fisher 1925). It stands
here so that nothing has to be waited for to tell it."""
NONE = "none"
"""The confidence of whoever goes by the figure alone."""
