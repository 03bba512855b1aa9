# SPDX-License-Identifier: GPL-2.0-only
"""What is said of updates: journal, metrics, sentences.

It observes nothing, and changes nothing.
"""
