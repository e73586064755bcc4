"""Real delegate libraries of a few lines of C, for tests: one that crashes, one that refuses, one that takes nothing over.

Built with the machine's compiler; where there is none the tests that need them are skipped with that reason.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# The beginning of LiteRT's TfLiteDelegate, as its C header lays it out; Prepare that claims no operation is valid.
_COMMON = """
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
typedef struct Delegate {
  void *data; int (*prepare)(void *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle; int64_t flags; void *builder;
} Delegate;
static int prepare(void *context, Delegate *self) { return 0; }
void tflite_plugin_destroy_delegate(Delegate *self) { free(self); }
Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  %s
}
"""
_BODIES = {
    "idle": "Delegate *self = calloc(1, sizeof *self); self->prepare = prepare; return self;",
    "absent": 'report("no device on the bus"); return NULL;',
    "crash": "abort();",
    "hang": "for (;;) pause();",
    "late": "sleep(3); abort();",
}


def build(directory: Path, behaviour: str) -> Path:
    """The shared library of that behaviour: ``idle``, ``absent``, ``crash`` at once or ``late``, or ``hang``."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine to build a delegate library with")
    library = directory / f"lib{behaviour}.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(library)],
        input=(_COMMON % _BODIES[behaviour]).encode(),
        check=True,
    )
    return library
