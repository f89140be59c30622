"""Tables of rich as plain text, for files, pipes and ``str``."""

import io

from rich.console import Console, RenderableType


def plain(renderable: RenderableType, width: int = 160) -> str:
    """A renderable as text without colours, its lines without trailing blanks."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, legacy_windows=False).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())
