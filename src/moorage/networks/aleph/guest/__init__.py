"""The API that programs reach from inside their sandbox, over a Unix socket (contract, section 4.4)."""
