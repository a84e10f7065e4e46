"""Agents of reinforcement learning: their critics, policies, environments, training and evaluation."""
