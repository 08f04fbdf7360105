"""graphopt as a step of other tools. Each module needs its tool, and is imported only by who uses it."""
