"""How much an error in each layer matters, and the fit of chosen layers in the order of the network."""
