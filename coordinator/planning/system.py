"""What the machine must be for a job to run on it."""

from headrace.errors import BadJob, Fault


def check_system(platform: str) -> None:
    """Checks `sys.platform`.

    Raises:
        BadJob: it isn't Linux, whose memfd and SCM_RIGHTS carry every batch.
    """
    if platform != "linux":
        raise BadJob([Fault("machine", f"found {platform}", "Linux; on others run Headrace in a container")])
