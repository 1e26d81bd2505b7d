"""Decisions of the coordinator: which shards there are, who holds them, whose commit counts.

Law: pure. Time and randomness come in as arguments, decisions go out as values (facts that the driver journals before
any reply promises them); no asyncio, IO, clock or log here. numpy is the only package.
"""
