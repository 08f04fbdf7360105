"""Whether two models compute the same, and how near an approximate one comes."""
