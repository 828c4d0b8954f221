# SPDX-License-Identifier: Apache-2.0
"""Direct preference knowledge distillation: the teacher is the reference."""

from jaxalign.preference import pairs, pairwise

__all__ = ("dpkd_loss",)


def dpkd_loss(logps: pairs.PairLogps, *, beta: float = 0.1) -> pairs.PairLoss:
  """Prefers the teacher's completion to the student's, by token.

  `-log sigmoid(beta (h_w/|y_w| - h_l/|y_l|))` with `h = log(student/teacher)`:
  the chosen completion is the teacher's, the rejected the student's, the
  reference is the teacher. For completions of one token, the teacher's law p
  and rejected ones drawn once from s, the minimiser is `p (p/s)^(1/beta)`,
  beyond the teacher; drawn anew from the student (as constants), the student is
  at rest where it is the teacher. The paper adds a language-model loss on the
  pre-training corpus; that is the caller's to add. What differs from
  `sigmoid_norm_loss` is who the two completions and the reference are.

  Args:
    logps: `PairLogps`, arrays `[...]`, with lengths.
    beta: above 0, nats of reward per nat of a token's log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h/|y|`. A pair with an empty
    completion has loss 0.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, no reference or no lengths.

  >>> import jax.numpy as jnp
  >>> two = 2 * jnp.ones(1)
  >>> out = dpkd_loss(
  ...   pairs.PairLogps(-two, -2 * two, -two, -two, two, two), beta=1.)
  >>> print(f"{out.loss[0]:.4f} {out.rejected_reward[0]:.1f}")
  0.3133 -1.0

  Reference:
    Direct Preference Knowledge Distillation (2406.19774).
  """
  return pairwise.sigmoid_norm_loss(logps, beta=beta)
