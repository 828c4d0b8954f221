# SPDX-License-Identifier: Apache-2.0
"""TFDS builder of preference pairs, in array_record format.

Without TensorFlow a data set is built with its class and read by its folder:

  builder = PreferencePairs(path="pairs.jsonl", data_dir=folder)
  builder.download_and_prepare()
  read_preferences(builder.data_dir)

This module imports tensorflow_datasets, hence the package loads it on use.
"""

import os
from collections.abc import Iterator

import tensorflow_datasets as tfds

from jaxalign.data import preferences

__all__ = ("PreferencePairs",)


class PreferencePairs(tfds.core.GeneratorBasedBuilder):
  """A file of preference pairs as a TFDS data set with one split, `train`.

  Args:
    path: of a file that `read_preferences` reads.
    on_bad_line: "error" or "skip".
    **kwargs: those of TFDS, first of all `data_dir`.
  """

  VERSION = tfds.core.Version("1.0.0")
  # Where TFDS looks for check sums of downloads, of which we have none. To find
  # it out it imports importlib_resources, which it does not depend on.
  code_path = None

  def __init__(
    self, *, path: str | os.PathLike, on_bad_line: str = "error", **kwargs
  ):
    self._path, self._on_bad_line = path, on_bad_line
    # The default format needs TensorFlow, and fails when all is generated.
    kwargs.setdefault("file_format", "array_record")
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Prompts, each with a preferred and another answer.",
      features=tfds.features.FeaturesDict(
        {key: tfds.features.Text() for key in preferences.Preference._fields}
      ),
      disable_shuffling=True,  # the file's order
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager
    # Read whole before anything is written: a bad line leaves no files.
    found = preferences.read_preferences(
      self._path, on_bad_line=self._on_bad_line
    )
    return {"train": self._generate_examples(found.records)}

  def _generate_examples(self, records) -> Iterator[tuple[int, dict[str, str]]]:
    for number, record in enumerate(records):
      yield number, record._asdict()
