"""The `hourpass` package: guards in APIs, and HourpassAuth in their clients."""
