"""Changes to written records, for tests of what is not as it should be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def change(path: Path, edit: Callable[[dict[str, Any]], Any] | None = None, **values: Any) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    if edit is not None:
        edit(content)
    path.write_text(json.dumps(content | values))
