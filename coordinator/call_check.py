"""What comes over a connection is checked before a service sees it: a message's length, that it is whole, its form.

A message is five bytes (a flag of compression, a length), then its body. What is wrong with it is the caller's fault
and answered as such: INVALID_ARGUMENT, RESOURCE_EXHAUSTED for one over the limit, UNIMPLEMENTED for a compressed one.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError

from headrace.limits import MESSAGE_BYTES_MAX

Method = Callable[[Any], Coroutine[Any, Any, None]]


class MessageCodec(ProtoCodec):
    """Protobuf messages, betterproto's and Google's."""

    def decode(self, data: bytes, message_type: Any) -> Any:
        """The message.

        Raises:
            GRPCError: the bytes are no message of that type.
        """
        try:
            return message_type.FromString(data)
        except (RuntimeError, DecodeError) as error:  # the first is betterproto's, for whatever is wrong
            name = message_type.__name__
            raise GRPCError(Status.INVALID_ARGUMENT, f"The body of the request is no {name}: {error}") from None


def checked(method: Method, *, may_be_empty: bool) -> Method:
    """The same method, refusing a message by its prefix, before its body is read from the connection.

    `may_be_empty`: no message at all is a call, too (of a method that takes a stream).
    """

    async def call(stream: Any) -> None:
        raw = stream._stream
        raw.recv_data = _Messages(raw.recv_data, may_be_empty).read
        await method(stream)

    return call


class _Messages:
    """The bytes of one call's messages; grpclib reads a prefix and a body by turns."""

    def __init__(self, receive: Callable[[int], Coroutine[Any, Any, bytes]], may_be_empty: bool) -> None:
        self._receive = receive
        self._may_be_empty = may_be_empty
        self._is_prefix = True

    async def read(self, size: int) -> bytes:
        """`size` bytes, or none at the end of the call's messages.

        Raises:
            GRPCError: the message is refused.
        """
        is_prefix, self._is_prefix = self._is_prefix, not self._is_prefix
        if size > MESSAGE_BYTES_MAX:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"A message of {size} bytes is over the limit of {MESSAGE_BYTES_MAX}."
            )
        try:
            data = await self._receive(size)
        except AssertionError:  # grpclib's word for it
            raise GRPCError(Status.INVALID_ARGUMENT, "The request ends within a message.") from None
        if is_prefix:
            self._check_prefix(data)
        elif len(data) < size:
            raise GRPCError(Status.INVALID_ARGUMENT, "The request ends within a message.")
        return data

    def _check_prefix(self, data: bytes) -> None:
        if not data:
            if not self._may_be_empty:
                raise GRPCError(Status.INVALID_ARGUMENT, "The request has no message.")
        elif data[0] == 1:
            raise GRPCError(Status.UNIMPLEMENTED, "This coordinator takes no compressed messages.")
        elif data[0]:
            raise GRPCError(Status.INVALID_ARGUMENT, f"A message begins with 0 or 1, not {data[0]}.")
