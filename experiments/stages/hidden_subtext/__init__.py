# SPDX-License-Identifier: Apache-2.0
"""Parts of `experiments.hidden_subtext`."""
