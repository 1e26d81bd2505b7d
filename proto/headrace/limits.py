"""Bounds that both ends of a connection must agree on."""

MESSAGE_BYTES_MAX = 16 * 2**20
"""Longest gRPC message in bytes that the coordinator reads; a longer one is refused before its body is.

Room for an exchange that grants a shard of tens of thousands of tiny files. grpclib has no limit of its own.
"""

SOCKET_PATH_BYTES_MAX = 100
"""Longest path in bytes that is bound or connected to as it is: `sockaddr_un` has room for 107 and a zero."""

CALL_TIMEOUT_S = 20.0
"""Deadline of one unary call that has none of its own. A reply waits for one fsync, not for work."""
