"""What could be done to a graph: one rewrite a file, in families that do not know each other."""
