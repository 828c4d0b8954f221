# SPDX-License-Identifier: Apache-2.0
import numpy as np
import scipy.integrate
import scipy.stats

from experiments.stages.best_of_n import known_laws


def test_known_laws_are_exact():
  n = np.array([1.0, 2.0, 37.0])
  laws = known_laws.known_laws()

  def gaussian(power, n):
    normal = scipy.stats.norm
    return scipy.integrate.quad(
      lambda x: x**power * n * normal.pdf(x) * normal.cdf(x) ** (n - 1), -12, 12
    )[0]

  mean, variance = laws["gaussian mean 0 sd 1"].best_of(n)
  expected = np.array([gaussian(1, x) for x in n])
  # Cells of width 1e-3: their middles are off by its square.
  np.testing.assert_allclose(mean, expected, atol=1e-6)
  second = np.array([gaussian(2, x) for x in n])
  np.testing.assert_allclose(variance, second - expected**2, atol=1e-6)
  np.testing.assert_allclose(mean[1], np.pi**-0.5, atol=1e-6)
  shifted, _ = laws["gaussian mean 2 sd 0.5"].best_of(n)
  np.testing.assert_allclose(shifted, 2 + mean / 2, atol=1e-6)
  mean, variance = laws["correct 1 in 10"].best_of(n)
  np.testing.assert_allclose(mean, 1 - 0.9**n, atol=1e-12)
  np.testing.assert_allclose(variance, mean * (1 - mean), atol=1e-12)
  mean, _ = laws["integers 0 to 4"].best_of(n)
  below = (np.arange(1, 5) / 5)[:, None] ** n
  np.testing.assert_allclose(mean, (1 - below).sum(0), atol=1e-12)


def test_quantiles_of_known_laws():
  laws = known_laws.known_laws()
  u = np.array([0.05, 0.1, 0.5, 0.8999, 0.9001])
  np.testing.assert_allclose(
    laws["gaussian mean 2 sd 0.5"].quantile(u),
    scipy.stats.norm(2, 0.5).ppf(u),
    atol=1e-9,
  )
  assert laws["correct 1 in 10"].quantile(u).tolist() == [0, 0, 0, 0, 1]
  assert laws["integers 0 to 4"].quantile(u).tolist() == [0, 0, 2, 4, 4]
