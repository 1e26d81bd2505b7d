"""The sidecar: one asyncio process per worker that reads, converts, feeds the stages, writes and reports.

Law: imports `headrace` and third parties, never coordinator or predictor; never runs user code; the event loop never
blocks (files, Arrow and hashing live in threads); what is decided lies in `sidecar.core`.
"""
