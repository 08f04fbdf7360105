"""Budgets, gates and the choice among candidates, on plain numbers."""
