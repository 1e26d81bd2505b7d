"""What two processes of Headrace must agree on: words, errors, the worker's program, messages, the local protocol.

Imports neither coordinator, sidecar nor predictor. `headrace.local` alone is also copied into users' images: it uses
the standard library only and runs on Python 3.9.
"""
