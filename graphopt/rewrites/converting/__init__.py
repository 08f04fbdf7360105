"""The same computation in an operator, or a layout, that costs less."""
