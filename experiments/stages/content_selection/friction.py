# SPDX-License-Identifier: Apache-2.0
"""What friction does to revenue, to participation, and to engagement.

Two quantities may be meant by engagement: the probability f(y*) with which a
user who took part does so again, and the share of rounds in which users take
part in the long run. They need not move together.
"""

import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.content_selection import model

EXACT = 1e-12
TWO = model.Model(base=1.0, price=5.0, discount=0.9, friction=0.0)
TWO_Y, TWO_F = np.array([0.0, 1.0]), np.array([0.5, 0.95])
# Engagement falls by 5e-5 or more from one friction to the next, and rises by
# 7e-6 with each step of the grid.
FINE = np.arange(8001) / 1000
FRICTIONS = np.arange(20) / 20
PARADOX = (0, 18)  # friction 0 and .9


def _long_run(f: float, friction: float) -> float:
  """The share of rounds with the user, by the powers of the chain."""
  back = (1 - friction) * f
  chain = np.array([[f, 1 - f], [back, 1 - back]])
  return np.linalg.matrix_power(chain, 10_000)[0, 0]


def friction() -> harness.Part:
  """Claims on the paradox, and on logistic demand, where it is absent."""
  two = model.by_friction(TWO_Y, TWO_F, FRICTIONS, TWO)
  smooth = model.by_friction(
    FINE, model.logistic(FINE), FRICTIONS, model.LOGISTIC
  )
  low, high = PARADOX
  shares = [
    _long_run(f, phi)
    for f, phi in zip(two.participation, FRICTIONS, strict=True)
  ]
  gain = two.engagement[high] - two.engagement[low]
  claims = [
    harness.all_agree(
      "engagement",
      "two levels: long-run engagement in closed form is that of the Markov"
      " chain: largest difference over frictions",
      [two.engagement - shares],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="paradox_engagement",
      statement="two levels: long-run engagement at friction .9 less that at 0",
      theory=_long_run(0.95, 0.9) - _long_run(0.5, 0.0),
      measured=gain,
      tolerance=EXACT,
    ),
    harness.Claim(
      name="paradox_revenue",
      statement="two levels: revenue at friction .9 less that at 0",
      theory=0.0,
      measured=two.value[high] - two.value[low],
      tolerance=0.0,
      relation="<=",
    ),
    harness.none_exceeds(
      "logistic_participation",
      "logistic demand: the participation f(y*) does not fall with friction:"
      " largest fall between frictions",
      [-np.diff(smooth.participation)],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "logistic_engagement",
      "logistic demand: long-run engagement does not rise with friction:"
      " largest rise between frictions",
      [np.diff(smooth.engagement)],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "logistic_revenue",
      "logistic demand: revenue does not rise with friction: largest rise"
      " between frictions",
      [np.diff(smooth.value)],
      tolerance=0.0,
    ),
  ]
  tables = {
    f"friction: {title}": harness.rows(
      friction=FRICTIONS[[low, 6, 12, high]],
      **{name: x[[low, 6, 12, high]] for name, x in found._asdict().items()},
    )
    for title, found in (("two levels", two), ("logistic demand", smooth))
  }
  curves = {
    f"friction/{kind}/{name}": x
    for kind, found in (("two", two), ("logistic", smooth))
    for name, x in found._asdict().items()
  }
  return harness.Part(claims, curves, tables)


def plot(
  axes: Axes, curves: dict[str, np.ndarray], kind: str, title: str
) -> None:
  """Participation, long-run engagement, and revenue as a share."""
  revenue = curves[f"friction/{kind}/value"]
  lines = {
    "participation f(y*)": curves[f"friction/{kind}/participation"],
    "long-run engagement": curves[f"friction/{kind}/engagement"],
    "revenue over that without": revenue / revenue[0],
  }
  for label, values in lines.items():
    axes.plot(FRICTIONS, values, ".-", label=label)
  axes.set(xlabel="friction", title=title)
  axes.legend()
