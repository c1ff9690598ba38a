"""Methods on hidden features, with learned adapters where shapes differ."""
