"""The device as the host sees it: one protocol, its backends, and the driver that works over any of them."""

from insitu.host.device.backends import open_device
from insitu.host.device.driver import Driver
from insitu.host.device.protocol import Device, Transfer

__all__ = ["Device", "Driver", "Transfer", "open_device"]
