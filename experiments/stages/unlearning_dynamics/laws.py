# SPDX-License-Identifier: Apache-2.0
"""How fast a completion is forgotten: gradient flow against its exact law.

The parameters are token log-probabilities themselves. For one token NPO's
log-ratio h obeys `e^(-beta h)/beta - h = 2 t + 1/beta`; that of gradient ascent
is -t.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign import numerics, preference

BETAS = (0.1, 0.5, 1.0, 2.0)
LENGTHS = (1, 4, 16, 64)
START = -0.5  # of a token's log-probability, where lengths are compared
BETA, SIMNPO_BETA = 0.1, 2.5  # the losses' defaults
SHOWN, T = 1000, 200.0  # the node at which time is T
STEPS = 2700
# Of a Runge-Kutta method of fourth order with steps of .005 in log(1 + t):
# (.005)^4 times the time constants of the laws.
INTEGRATION = 1e-8


def times() -> np.ndarray:
  """`[STEPS + 1]`: equal steps of log(1 + t); T is one of them."""
  return np.expm1(np.log1p(T) / SHOWN * np.arange(STEPS + 1))


def flow(loss, start: jax.Array) -> jax.Array:
  """Gradient flow of a loss `[...]` of as many parameters, `[..., times]`."""
  step = np.log1p(T) / SHOWN

  def speed(s, x):
    return -jnp.exp(s) * jax.grad(lambda y: jnp.sum(loss(y)))(x)

  def advance(x, s):
    k1 = speed(s, x)
    k2 = speed(s + step / 2, x + step / 2 * k1)
    k3 = speed(s + step / 2, x + step / 2 * k2)
    k4 = speed(s + step, x + step * k3)
    new = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return new, new

  _, path = jax.lax.scan(advance, start, step * jnp.arange(STEPS))
  path = jnp.concatenate([start[None], path])
  return jnp.moveaxis(path, 0, -1)


def law(beta, t, start=0.0):
  """The x with `e^(-beta x)/beta - x = 2 t + e^(-beta start)/beta - start`."""
  y = 2 * beta * t + jnp.exp(-beta * start) - beta * start
  return (numerics.wright_omega(y) - y) / beta


@functools.partial(jax.jit, static_argnames="npo")
def by_beta(*, npo: bool = True):
  """Log-ratios of one token, flow and law, `[betas, times]`."""
  betas, t = jnp.array(BETAS)[:, None], jnp.asarray(times())
  zero = jnp.zeros(1)

  def one(beta):
    def loss(h):
      if not npo:
        return preference.ga_loss(h)
      return preference.npo_loss(h, zero, beta=beta)

    return flow(loss, zero)[0]

  return jax.vmap(one)(betas[:, 0]), law(betas, t)


@jax.jit
def by_length():
  """Falls of mean token log-probabilities, `[loss, flow or law, L, times]`.

  All tokens of a completion are alike, so that one stands for them; the sum of
  the gradients of its tokens moves it, hence the factor of their number.
  """
  lengths, t = jnp.array(LENGTHS, float), jnp.asarray(times())
  start = jnp.full(len(LENGTHS), START)
  ref = lengths * START

  def npo(mean):
    return preference.npo_loss(lengths * mean, ref, beta=BETA) / lengths

  def simnpo(mean):
    loss = preference.simnpo_loss(lengths * mean, lengths, beta=SIMNPO_BETA)
    return loss / lengths

  tall = lengths[:, None]
  npo_law = law(BETA, t * tall) / tall
  simnpo_law = law(SIMNPO_BETA, t / tall, START) - START
  return jnp.stack(
    [
      jnp.stack([flow(npo, start) - START, npo_law]),
      jnp.stack([flow(simnpo, start) - START, simnpo_law]),
    ]
  )


def _beta_claims(h, exact, ascent):
  t, beta = times(), np.array(BETAS)
  at = BETAS.index(0.5)
  late = 2 * beta * t[-1]
  gap = h[:, -1] + np.log(late) / beta
  correction = (np.log(late) - 1) / (beta * late)
  return [
    harness.all_agree(
      "npo_law",
      "NPO's flow of one token for beta .1, .5, 1, 2: largest distance to the"
      " exact law",
      h - exact,
      tolerance=INTEGRATION,
    ),
    harness.Claim(
      name="npo_at_200",
      statement="NPO with beta .5: log-ratio after time 200",
      theory=float(exact[at, SHOWN]),
      measured=h[at, SHOWN],
      tolerance=INTEGRATION,
    ),
    harness.all_agree(
      "ga_law",
      "gradient ascent's flow of one token: log-ratio over -t, less 1",
      ascent[0, 1:] / -t[1:] - 1,
      tolerance=INTEGRATION,
    ),
    harness.Claim(
      name="npo_asymptote",
      statement="NPO's log-ratio less -log(2 beta t)/beta at the end, over what"
      " the law leaves, (log(2 beta t) - 1)/(2 beta^2 t): largest over betas",
      theory=1.0,
      measured=harness.largest(gap / correction),
      # The next term of the expansion is smaller by log(2 beta t)/(2 beta t).
      tolerance=float(np.max(np.log(late) / late)),
    ),
  ]


def _length_claims(falls):
  npo, simnpo = falls

  def share(falls):
    """The longest completion's fall over the shortest's, per token, at T."""
    return falls[-1, SHOWN] / falls[0, SHOWN]

  return [
    harness.all_agree(
      "length_laws",
      "flows of NPO and SimNPO for lengths 1, 4, 16, 64: largest distance of"
      " mean token log-probabilities to the exact laws",
      (npo[0] - npo[1], simnpo[0] - simnpo[1]),
      tolerance=INTEGRATION,
    ),
    *(
      harness.Claim(
        name=f"{name}_length",
        statement=f"{label}: fall per token of length 64 over that of length 1,"
        " after time 200",
        theory=share(x[1]),
        measured=share(x[0]),
        tolerance=INTEGRATION,
      )
      for name, label, x in (
        ("npo", "NPO", npo),
        ("simnpo", "SimNPO", simnpo),
      )
    ),
  ]


def laws() -> harness.Part:
  """Claims on flows, their curves and the table at time 200."""
  h, exact = map(np.asarray, by_beta())
  ascent, _ = map(np.asarray, by_beta(npo=False))
  falls = np.asarray(by_length())
  claims = _beta_claims(h, exact, ascent) + _length_claims(falls)
  tables = {
    "one token, log-ratio after time 200": harness.rows(
      beta=BETAS, NPO=h[:, SHOWN], law=exact[:, SHOWN], ascent=-T
    ),
    "fall per token after time 200": harness.rows(
      length=LENGTHS, NPO=falls[0, 0, :, SHOWN], SimNPO=falls[1, 0, :, SHOWN]
    ),
  }
  shown = slice(0, None, 10)
  curves = {
    "laws/times": times()[shown],
    "laws/h": h[:, shown],
    "laws/falls": falls[:, 0, :, shown],
  }
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Log-ratios by beta; falls by length."""
  figure, (left, *rest) = plotting.figure(1, 3, width=3.8)
  t = curves["laws/times"]
  left.plot(t, -t, "k", label="gradient ascent")
  for i, (beta, h) in enumerate(zip(BETAS, curves["laws/h"], strict=True)):
    left.plot(t, h, label=f"NPO, beta {beta:g}", **plotting.line_style(i))
    end = t[t > 2 / beta]
    left.plot(end, -np.log(2 * beta * end) / beta, ":k", lw=1)
  left.set(title="One token; dotted: -log(2 beta t)/beta", ylabel="log(pi/ref)")
  left.set_ylim(-60, 2)
  for axes, name, falls in zip(
    rest, ("NPO", "SimNPO"), curves["laws/falls"], strict=True
  ):
    for i, (length, fall) in enumerate(zip(LENGTHS, falls, strict=True)):
      axes.plot(t, fall, label=f"length {length}", **plotting.line_style(i))
    axes.set(title=name, ylabel="change of mean token log-probability")
    axes.set_ylim(-12, 0.5)
  for axes in (left, *rest):
    axes.set(xlabel="time of gradient flow", xscale="log", xlim=(1e-3, 1e6))
    axes.legend(loc="lower left")
  return figure
