# SPDX-License-Identifier: Apache-2.0
"""Parts of `experiments.knowledge_injection`."""
