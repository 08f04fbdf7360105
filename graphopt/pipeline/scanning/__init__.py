"""What a scan shows: the operators of a model, what they cost and take, and what could be done."""
