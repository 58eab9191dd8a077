"""Policies with which tests wait for servers on this machine.

A server on this machine may be polled more often than others: it is the tests that wait.
"""

from __future__ import annotations

from coffea_sx.policy import PollPolicy

FAST = PollPolicy(busy_s=0.05, idle_s=0.5)
"""The limits of users, and shorter pauses."""

IMPATIENT = PollPolicy(busy_s=0.02, idle_s=0.1, stall_s=60.0, settle_s=0.3, outage_s=2.0)
"""Shorter limits, too: a transform that cannot end well ends within seconds."""
