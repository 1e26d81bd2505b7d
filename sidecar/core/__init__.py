"""Decisions of a sidecar: what goes to which predictor, what may use the arena, which leases to trust.

Law: pure. No asyncio, time, os, logging or IO; time comes in as an argument, decisions go out as values.
"""
