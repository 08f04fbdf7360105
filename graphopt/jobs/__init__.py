"""One or many models as files: tasks, recipes, worker processes, and what is written."""
