"""How weights are stored: which encoding, decoded where."""
