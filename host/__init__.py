"""What runs beside the device: compiler, driver and its backends, feedback store, online-fix loop, guard, reports and
the command line."""
