"""What the user may ask for: the table of options, and what was asked, checked."""
