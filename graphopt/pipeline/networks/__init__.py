"""Networks that a budget asks for: what is fitted to what, what each part is worth, and how good they are."""
