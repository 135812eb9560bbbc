"""What the studies on networks share: data, networks, methods, training, and what is drawn of it.

A task and a method are a file each (`tasks`, `methods`): what a study is made of. `fetch`, `images` and
`glosses` need no PyTorch; the other modules do.
"""
