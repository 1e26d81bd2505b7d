"""What a sidecar and a predictor agree on: columns in the arena, frames on the socket, the session, arena arithmetic.

Law of this folder: standard library only, Python 3.9, no IO (bytes in, values out), relative imports only, because it
is copied into users' images together with `predictor`, under one private name.
"""
