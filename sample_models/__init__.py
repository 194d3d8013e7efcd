"""Networks that kronexport can build out of the box (``sample:NAME``)."""
