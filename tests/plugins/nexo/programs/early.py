"""A plugin that prints before its adapter runs, and after.

Arguments: the loop, and the options of the adapter as JSON.
"""

from __future__ import annotations

import json
import sys

print("early")

from anyio_bus.plugins.nexo import PluginAdapter  # noqa: E402

options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
adapter = PluginAdapter(manifest_toml='[plugin]\nid = "early"\nversion = "1"\n', **options)

if __name__ == "__main__":
    adapter.run_forever(sys.argv[1])
    print("late")
