# SPDX-License-Identifier: Apache-2.0
"""Parts of `experiments.in_context_uncertainty`."""
