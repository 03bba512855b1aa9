# SPDX-License-Identifier: GPL-2.0-only
"""What people and monitoring read about updates: journal entries, metrics, sentences.

It observes nothing and changes nothing but the metrics file.
"""
