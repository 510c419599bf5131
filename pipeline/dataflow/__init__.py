"""Flex Templates and schedules: build, launch and describe them."""
