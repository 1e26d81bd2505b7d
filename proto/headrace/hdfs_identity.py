"""Who a process is to HDFS: never part of a job, found in the environment of whoever reads or writes.

HEADRACE_HDFS_TOKEN   a delegation token as text, for clusters with Kerberos
HADOOP_USER_NAME      the user's name, for clusters without; default: the operating system's user
"""

import getpass
import os

TOKEN = "HEADRACE_HDFS_TOKEN"
USER = "HADOOP_USER_NAME"


def identity(*, anonymous: bool) -> dict[str, str]:
    """Parameters of every request; none where it is made as nobody.

    Raises:
        OSError: this process has no name.
    """
    if anonymous:
        return {}
    if token := os.environ.get(TOKEN, "").strip():
        return {"delegation": token}
    try:
        return {"user.name": os.environ.get(USER) or getpass.getuser()}
    except KeyError as error:  # a container whose user isn't in its /etc/passwd
        text = f"this process' user has no name: set {USER}, or {TOKEN} for a cluster with Kerberos"
        raise OSError(text) from error
