"""Pretrain, finetune or probe on Modal: flags -> ExperimentSpec -> a run on the volume ``llm-models``.

    modal run pretrain_wikitext_finetune_qasrl_modal.py --config-name tiny
    modal run -d pretrain_wikitext_finetune_qasrl_modal.py --config-name small     # survives your laptop
    modal run pretrain_wikitext_finetune_qasrl_modal.py --list-saved

Needs ``pip install modal`` and this checkout, nothing else. Paths are on the volumes: weights on ``llm-models``, text
and questions on ``llm-training-data``. docs/modal.md has every flag.
"""

from __future__ import annotations

import sys
from typing import Any

from emergence.errors import installed

with installed():
    from emergence.remote.app import app
    from emergence.remote.client import check_flags_first, launch
    from emergence.remote.launch import launch_flags
    from emergence.spec.flags import takes


@app.local_entrypoint()
@takes(*launch_flags(), client="modal")
def main(**flags: Any) -> None:
    """Launch one experiment, or list the saved ones."""
    launch(flags)


check_flags_first(__file__, __doc__)
if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit(0)
    print("error: this file runs on Modal: modal run FILE ...; on this machine: emergence run ...", file=sys.stderr)
    sys.exit(2)
