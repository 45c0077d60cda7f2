"""The network: the prox operator, the gate, and the U-Net that uses it."""
