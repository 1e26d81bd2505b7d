"""Options that several commands share, and the page that `headrace --help` shows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coordinator.cli.state import state_folder
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from coordinator.cli.control import Where

Command = TypeVar("Command", bound=Callable[..., Any])
DIGITS_MAX = 20
ROWS_MAX = 10**15
WORKERS_MAX = 10_000
"""Far beyond what anybody has; what the messages of the wire can carry is not for users to find out."""
GROUPS = (
    ("Run a job on this machine", ("plan", "run", "rejects", "retry", "verify", "chaos", "schema")),
    ("Look at a job that runs", ("status", "list", "shards", "workers")),
    ("Steer a job that runs", ("suspend", "resume", "scale", "cancel")),
    ("Parts by themselves", ("coordinator", "worker", "submit")),
)
"""Commands as a new user meets them, not by the alphabet."""


class Number(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on, and only there
    """A whole number within bounds, which help doesn't spell out."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        is_number = text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX
        if not is_number or not self._least <= int(text) <= self._most:
            self.fail(f"{text!r} isn't a number from {self._least:,} to {self._most:,}.", param, ctx)
        return int(text)


def examples(*lines: str) -> str:
    """The part of a command's help that shows how it is typed; a line may carry a remark after two spaces."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class Commands(click.Group):
    """A group whose help lists its commands in sections, one whole line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for _, names in GROUPS for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS:
            with formatter.section(title):
                rows = [(name, self.commands[name].get_short_help_str(limit=200)) for name in names]
                formatter.write_dl(rows, col_max=12)


def checked_address(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A coordinator's address as the user wrote it."""
    if value is not None:
        from headrace.channel import parse_address

        try:
            parse_address(value)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from error
    return value


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="Form of the answer.",
)
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Folder of ledgers, sockets and logs (default: headrace under the XDG state folder).",
)
coordinator_option = click.option(
    "--coordinator",
    "address",
    metavar="URL",
    callback=checked_address,
    help="unix:PATH or HOST:PORT (default: the jobs run on this machine).",
)
token_option = click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the bearer token for HOST:PORT."
)
job_argument = click.argument("job", type=click.Path(path_type=Path, dir_okay=False))
set_option = click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUE", help="Value for ${NAME} in the job file; may be repeated."
)
limit_option = click.option("--limit", type=Number(1, ROWS_MAX), metavar="ROWS", help="Take the first ROWS rows only.")
workers_option = click.option(
    "--workers", type=Number(1, WORKERS_MAX), metavar="N", default=1, show_default=True, help="Worker process groups."
)
again_option = click.option("--again", is_flag=True, help="Start anew, also if the job is complete or half done.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show what the processes log.")
_endpoint = click.option(
    "--endpoint", default="", metavar="URL", help="Where the store is; default: the environment's."
)
_region = click.option("--region", default="", help="Of S3; default: the environment's.")
_anonymous = click.option("--anonymous", is_flag=True, help="Don't sign requests to the store.")


def store_options(command: Command) -> Command:
    """The options `endpoint`, `region` and `anonymous`."""
    return _endpoint(_region(_anonymous(command)))


def where_of(address: str | None, token_file: Path | None, state: Path | None, environ: Mapping[str, str]) -> "Where":
    """What `coordinator_option`, `token_option` and `state_option` were given."""
    from coordinator.cli.control import Where
    from headrace.channel import read_token

    return Where(address, read_token(token_file) if token_file else None, state_folder(state, environ))


def sets_of(pairs: Sequence[str]) -> dict[str, str]:
    """What `set_option` was given, by name."""
    sets = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set takes NAME=VALUE, found {pair!r}.")
        sets[name] = value
    return sets
