"""Ready measures of what networks are for, on plain arrays: outputs of the original and of another."""
