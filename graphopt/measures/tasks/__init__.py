"""The tasks that are measured, one a file: its name is the measure's, and its `MEASURE` the class."""

import pkgutil

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""The names of all measures: those of the files here."""
