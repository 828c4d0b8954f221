# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from experiments.stages import csv_tables
from jaxalign import checks


def write(folder, text):
  path = folder / "table.csv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def test_all_columns_or_those_that_are_named(tmp_path):
  path = write(tmp_path, "\ufeffage,name,sex\n3,Ann,1\n4.5,Bob,0\n")
  table = csv_tables.read(path, ("sex", "age"))
  assert table.names == ("sex", "age")
  np.testing.assert_array_equal(table.values, [[1, 3], [0, 4.5]])
  np.testing.assert_array_equal(table.column("age"), [3, 4.5])
  rest = table.without("sex")
  assert rest.names == ("age",)
  np.testing.assert_array_equal(rest.values, [[3], [4.5]])
  path = write(tmp_path, '"a",b\n1,2\n')
  np.testing.assert_array_equal(csv_tables.read(path).values, [[1, 2]])


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a,b\n1,2\n3,\n", r"csv, line 3: expected a finite number in 'b', was ''"),
    ("a,b\n1,x\n", r"csv, line 2: expected a finite number in 'b', was 'x'"),
    (
      "a,b\n1,inf\n",
      r"csv, line 2: expected a finite number in 'b', was 'inf'",
    ),
    ("a,b\n1\n", r"csv, line 2: expected 2 columns"),
    ("a,c\n1,2\n", r"csv, line 1: expected a column 'b', found a, c"),
    ("a,b,a\n1,2,3\n", r"line 1: expected a name .* found 'a' twice"),
    (",a,b\n0,1,2\n", r"line 1: expected a name .* found none for column 1"),
    ("a,b\n", r"csv: expected at least one row of numbers"),
    ("", r"csv, line 1: expected a column 'a', found nothing"),
    (b"a,b\n\xff,1\n", r"csv: no CSV file in UTF-8: .*"),
  ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, message):
  with pytest.raises(checks.InputError, match=message):
    csv_tables.read(write(tmp_path, text), ("a", "b"))


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(checks.InputError, match=r"absent\.csv: no such file"):
    csv_tables.read(tmp_path / "absent.csv")
