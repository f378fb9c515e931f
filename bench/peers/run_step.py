"""One step by one library, timed alone, in whatever environment has the library.

    python bench/peers/run_step.py STEP LIBRARY INPUT VOCABULARY

A step is a file in rivals/. INPUT is what bench/corpus.py prepared: a folder with WARC files,
html.jsonl and text.jsonl. Input is read and the library warmed up before the clock starts. Prints
a JSON line {"cpu": seconds, "result": a number to compare}.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).parent / "rivals"))


def main(step: str, library: str, folder: str, vocabulary: str) -> None:
    """Prepare, run and time one step."""
    work = import_module(step).LIBRARIES[library](Path(folder), Path(vocabulary))
    start = time.process_time()
    result = work()
    print(json.dumps({"cpu": time.process_time() - start, "result": result}))


if __name__ == "__main__":
    main(*sys.argv[1:5])
