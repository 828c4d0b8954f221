# SPDX-License-Identifier: Apache-2.0
"""Policy-gradient surrogates, value targets and risk."""

__all__ = ()
