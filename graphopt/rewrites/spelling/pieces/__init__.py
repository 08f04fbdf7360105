"""What functions in pieces are told by, and what their spellings share."""
