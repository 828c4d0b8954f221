# SPDX-License-Identifier: Apache-2.0
"""The parts of `surrogate_gradients`, one table or figure a file."""
