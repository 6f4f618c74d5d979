"""An unsupported database backend: it claims to be MySQL and cannot connect."""
