"""Methods that contrast the teacher's features of an example with those of others."""
