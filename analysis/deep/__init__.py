"""What the studies on networks share: data, networks, methods, training, and what is drawn of it.

`fetch`, `images`, `glosses`, `figures` and `tables` need no PyTorch; the other modules do.
"""
