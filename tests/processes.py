# SPDX-License-Identifier: Apache-2.0
"""Programs of this repository as processes of their own."""

import os
import pathlib
import socket
import subprocess
import sys


def start(module, *arguments, num_devices=1):
  """Runs `python -m MODULE ARGUMENTS` on virtual devices; see `end`."""
  root = pathlib.Path(__file__).parents[1]
  environment = os.environ | {
    "PYTHONPATH": str(root),
    "JAX_NUM_CPU_DEVICES": str(num_devices),
  }
  return subprocess.Popen(
    [sys.executable, "-m", module, *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=root,
    env=environment,
    text=True,
  )


def end(process):
  """Exit code, output and errors; a process that hangs is killed."""
  try:
    out, err = process.communicate(timeout=100)
  finally:
    process.kill()
  return process.returncode, out, err


def free_address():
  """HOST:PORT of this machine that nobody listens to."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"
