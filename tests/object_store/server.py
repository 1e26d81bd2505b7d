"""An S3 server in a process of its own: moto's, on loopback; prints its port and ends with its standard input."""

import logging
import sys
from functools import wraps

from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import FakeBucket
from moto.server import ThreadedMotoServer


class Uploads(dict[str, object]):
    """moto answers 500 where an upload isn't known; S3 says that it isn't."""

    def __missing__(self, upload: str) -> object:
        raise NoSuchUpload(upload_id=upload)


def main() -> None:
    made = FakeBucket.__init__

    @wraps(made)
    def make(self: FakeBucket, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)
        self.multiparts = Uploads()

    FakeBucket.__init__ = make  # type: ignore[method-assign]
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
