# SPDX-License-Identifier: Apache-2.0
from experiments.stages.best_of_n import tokens
from tests.experiments import conventions


def test_limits():
  optimum, slope, rate = tokens.token_limits()
  conventions.assert_printed(optimum, ".5146291")
  conventions.assert_printed(rate, ".014710")
  # The slope is that of the rate function at the optimum.
  step = 1e-6
  rise = tokens.coin_kl(optimum + step, 0.3) - tokens.DELTA
  assert abs(rise / step - slope) < 1e-5


def test_a_wrong_limit_fails(monkeypatch):
  limits = tokens.token_limits()
  wrong = limits[0] + 0.02, *limits[1:]
  monkeypatch.setattr(tokens, "token_limits", lambda: wrong)
  part = tokens.tokens(lengths=(1000,), progress=False)
  assert conventions.failed(part.claims) >= {"reward_per_token", "kl_identity"}
