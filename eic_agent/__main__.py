"""Make `python -m eic_agent` the same as `eic-agent`."""

import sys

from eic_agent.entry import main

sys.exit(main())
